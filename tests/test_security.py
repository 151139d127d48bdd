"""Every port of a cluster that trains, asked without a token, with a wrong one and with the right one; canaries there."""

import contextlib
import http.client
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from service.cluster import knock
from tests import ray_heads, secret_jobs
from tests.listening import Listener, listeners
from tests.ray_heads import PATIENCE_SECONDS, Head
from tests.test_kills import descendants
from tests.test_secrets import files_with, hits, planted

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

HERE = Path(__file__).parents[1]
HEAD, NODE = "127.0.0.2", "127.0.0.3"  # two machines' addresses
ANSWER_SECONDS = 20

# What each kind of server calls itself, with a call that changes nothing: an empty message is a valid request to each.
CALLS = {
    "head": "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "node manager": "/ray.rpc.NodeManagerService/GetNodeStats",
    "objects": "/ray.rpc.ObjectManagerService/Pull",
    "worker or driver": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "node agent, gRPC": "/ray.rpc.ReporterService/HealthCheck",
    "Ray Client": "/ray.rpc.RayletDriver/ClusterInfo",
    "TensorFlow": "/tensorflow.WorkerService/GetStatus",
}
HEALTH = "/grpc.health.v1.Health/Check"
# A page of each HTTP server that its owner gets, and the pages that could be open.
PAGES = {"dashboard and jobs": "/api/jobs/", "node agent": "/api/jobs/", "runtime environments": "/", "metrics": "/metrics"}
OPEN_PAGES = ("/", "/api/authentication_mode", "/api/healthz", "/api/gcs_healthz", "/api/local_raylet_healthz", "/metrics")


class Row(NamedTuple):
    """What one kind of server answers, as it stands in SECURITY.md's table."""

    kind: str
    protocol: str
    no_token: str
    wrong_token: str
    open_to_all: str


class Scene(NamedTuple):
    """A run of two workers on a cluster of two nodes, while it trains."""

    head: Head
    storage: Path
    canaries: dict[str, str]
    ports: dict[tuple[str, int], Listener]
    rows: list[Row]
    words: dict[int, bytes]
    told: dict[str, str]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    """The run, looked at while it waits behind its training, and then ended by an error that tells its secrets."""
    storage, gate, canaries = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("gate") / "open", planted()
    variables = {**canaries, "PYTHONPATH": str(HERE)}
    with (
        ray_heads.started("--node-ip-address", HEAD, cpus=1, **variables) as head,
        ray_heads.joined(head, f"{HEAD}:{head.port}", "--node-ip-address", NODE) as node,
    ):
        canaries["RAY_AUTH_TOKEN"] = head.token
        command = f"{sys.executable} -m tests.secret_jobs --workers 2 --storage {storage} --name a --gate {gate} --fails"
        begun = head.ask("/api/jobs/", head.token, {"entrypoint": command, "submission_id": "canary"})
        assert begun[0] == 200, begun
        _wait(head, lambda: all(Path(f"{gate}.{index}").exists() for index in range(2)))
        families = {HEAD: {**descendants(head.process.pid)}, NODE: {**descendants(node.pid)}}
        ports = {
            (one.address if one.is_loopback else host, one.port): one
            for host, pids in families.items()
            for one in listeners(pids)
        }
        words = {pid: words_of(pid) for pids in families.values() for pid in pids}
        rows = [_row(address, port, head.token) for address, port in ports]
        gate.touch()
        _wait(head, lambda: head.about("canary")["status"] == "FAILED")
        yield Scene(head, storage, canaries, ports, rows, words, _told(head))


def words_of(pid: int) -> bytes:
    """Returns a process's words; none of one that has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _wait(head: Head, condition: Any) -> None:
    began = time.monotonic()
    while not condition():
        about = head.about("canary")
        late = time.monotonic() - began > PATIENCE_SECONDS
        if about["status"] not in ("PENDING", "RUNNING") or late:
            pytest.fail(f"{about}\n{head.ask('/api/jobs/canary/logs', head.token)[1]}")
        time.sleep(0.1)


def _told(head: Head) -> dict[str, str]:
    """Returns what the dashboard tells to whoever has the token, of all that a run leaves there."""
    listed = [f"/api/v0/{what}?detail=1&limit=1000" for what in ("jobs", "actors", "tasks", "nodes", "workers", "runtime_envs")]
    paths = [*listed, "/api/jobs/", "/api/jobs/canary", "/api/jobs/canary/logs", "/logical/actors", "/nodes?view=details"]
    paths += ["/api/train/v2/runs/v1", "/api/v0/placement_groups?detail=1", "/nodes?view=summary", "/api/cluster_status"]
    answers = {path: head.ask(path, head.token) for path in paths}
    nodes = json.loads(answers["/nodes?view=summary"][1])["data"]["summary"]
    answers |= {path: head.ask(path, head.token) for path in (f"/nodes/{one['raylet']['nodeId']}" for one in nodes)}
    return {path: text for path, (status, text) in answers.items() if status == 200}


def _row(address: str, port: int, token: str) -> Row:
    wrong = secrets.token_hex(32)
    if _http(address, port, "/", None) is not None:
        opened = [page for page in OPEN_PAGES if _http(address, port, page, None) == 200]
        kind = _kind_of_http(address, port, token)
        answers = [str(_http(address, port, PAGES[kind], shown)) for shown in (None, wrong)]
        return Row(kind, "HTTP", *answers, "all of it" if answers[0] == "200" else ", ".join(opened) or "nothing")
    kind = next((kind for kind, call in CALLS.items() if _grpc(address, port, call, token) != "UNIMPLEMENTED"), "unknown")
    answers = [_grpc(address, port, CALLS.get(kind, HEALTH), shown) for shown in (None, wrong)]
    health = "its health" if _grpc(address, port, HEALTH, None) == "OK" else "nothing"
    return Row(kind, "gRPC", *answers, "all of it" if answers[0] == "OK" else health)


def _kind_of_http(address: str, port: int, token: str) -> str:
    if _http(address, port, "/nothing", None) == 200:
        return "metrics"  # which are its answer to any page
    if _http(address, port, "/", None) == 200:
        return "dashboard and jobs"
    return "node agent" if _http(address, port, "/api/healthz", token) == 200 else "runtime environments"


def _http(address: str, port: int, path: str, token: str | None) -> int | None:
    """Returns the status of an HTTP server's answer; None where it is none."""
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(http.client.HTTPException, OSError):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    return None


def _grpc(address: str, port: int, call: str, token: str | None) -> str:
    """Returns the status of a gRPC server's answer."""
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        try:
            shown = [("authorization", f"Bearer {token}")] if token else None
            channel.unary_unary(call)(b"", timeout=ANSWER_SECONDS, metadata=shown)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def test_every_port_refuses_who_has_no_token_and_who_has_a_wrong_one_but_those_that_are_named(scene):
    refused = {"HTTP": ("401", "403"), "gRPC": ("UNAUTHENTICATED", "UNAUTHENTICATED")}
    opened = {row.kind for row in scene.rows if (row.no_token, row.wrong_token) != refused[row.protocol]}
    assert opened == {"metrics", "TensorFlow"}


def test_no_page_of_the_dashboard_and_no_new_job_is_to_be_had_without_the_token(scene):
    before = scene.head.ask("/api/jobs/", scene.head.token)[1]
    for token, status in ((None, 401), (secrets.token_hex(32), 403)):
        assert {path: scene.head.ask(path, token)[0] for path in scene.told} == dict.fromkeys(scene.told, status)
        assert scene.head.ask("/api/jobs/", token, {"entrypoint": "true"})[0] == status
    assert scene.head.ask("/api/jobs/", scene.head.token)[1] == before


def test_the_table_of_ports_is_what_a_cluster_that_trains_answers(scene):
    table = re.findall(r"^\| (.+) \| (HTTP|gRPC) \| (.+) \| (.+) \| (.+) \|$", (HERE / "SECURITY.md").read_text(), re.MULTILINE)
    written = [Row(*(cell.replace("`", "") for cell in line)) for line in table]
    assert sorted(written) == sorted({*scene.rows})


def test_the_run_s_processes_are_all_among_those_asked(scene):
    commands = " ".join(one.command for one in scene.ports.values() if Path(f"/proc/{one.pid}").exists())
    assert all(name in commands for name in ("gcs_server", "raylet", "dashboard.py", "ray.util.client.server"))
    kinds = [row.kind for row in scene.rows]
    assert kinds.count("TensorFlow") == 2 and kinds.count("node manager") == 2 and "unknown" not in kinds


def test_the_doctor_s_knock_tells_the_owner_from_strangers_at_each_door(scene):
    client = next(port for (_, port), row in zip(scene.ports, scene.rows, strict=True) if row.kind == "Ray Client")
    for address in (scene.head.address, f"{HEAD}:{scene.head.port}", f"ray://{HEAD}:{client}"):
        answers = [knock.ask(address, token, ANSWER_SECONDS) for token in (None, secrets.token_hex(32), scene.head.token)]
        assert answers == ["refuses", "refuses", "lets in"], address


@pytest.mark.parametrize("has_token, code, line", [(True, 0, "ok       cluster"), (False, 1, "MEND     cluster")])
def test_the_doctor_of_a_user_is_well_with_the_cluster_s_token_alone(scene, has_token, code, line):
    variables = dict(scene.head.environment)
    if not has_token:
        variables["RAY_AUTH_TOKEN_PATH"] = str(scene.head.folder / "none")
    words = ["-m", "service", "doctor", "--no-devices", "--storage", str(scene.storage), "--address", scene.head.address]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=variables, cwd=HERE, timeout=120)
    assert (done.returncode, line in done.stdout) == (code, True), done.stdout + done.stderr
    assert hits((done.stdout + done.stderr).encode(), scene.canaries) == []


def test_no_process_of_the_cluster_has_a_secret_among_its_words(scene):
    assert len(scene.words) > 10
    assert {pid: names for pid, words in scene.words.items() if (names := hits(words, scene.canaries))} == {}


def test_nothing_that_the_failed_run_wrote_has_a_secret(scene):
    assert files_with(scene.storage, scene.canaries) == {}
    there = {path.name for path in (scene.storage / "a").iterdir()}
    assert {"run.json", "commits", "shards", "logs", "output", "history.json"} <= there


def test_nothing_that_ray_wrote_has_a_secret_but_the_token_s_own_file(scene):
    assert files_with(scene.head.folder, scene.canaries) == {"token": ["RAY_AUTH_TOKEN"]}


def test_nothing_that_the_dashboard_tells_has_a_secret(scene):
    assert "the service does not take *** *** ***" in scene.told["/api/jobs/canary/logs"]
    assert len(scene.told) > 10 and any("RayTrainWorker" in text for text in scene.told.values())
    assert {path: names for path, text in scene.told.items() if (names := hits(text.encode(), scene.canaries))} == {}


def test_the_secrets_did_reach_the_run(scene):
    """Else their absence would prove nothing: the job put three variables into its error's text."""
    assert len(secret_jobs.VARIABLES) == 3
    assert "https://user:***@host/" in scene.told["/api/jobs/canary/logs"]
