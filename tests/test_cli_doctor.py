"""python -m service doctor: what is as it must be, what is not, and how to mend it."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import cli, cli_doctor, environment
from service.cluster import knock
from tests import ray_heads
from tests.buckets import s3_options
from tests.processes import free_ports

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> None:
    """No cluster, no token and no credentials are here but those that a test puts here."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_ADDRESS", "local")


def found(storage: str | None = None, address: str | None = None) -> dict[str, tuple[str, str]]:
    """Returns each check's state and text."""
    return {check["what"]: (check["state"], check["text"]) for check in cli_doctor.checks(storage, address, False)}


def test_all_is_well_here_and_nothing_is_left_behind(tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["doctor", "--no-devices", "--storage", str(tmp_path / "new" / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", what] for what in ("python", "packages", "environment", "storage", "token", "cluster")
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_json_says_the_same_and_whether_all_is_well(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["doctor", "--no-devices", "--json", "--storage", str(tmp_path / "file")]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["well"] is False
    (storage,) = [check for check in told["checks"] if check["what"] == "storage"]
    assert storage["state"] == "mend" and "Give a folder that this user may write." in storage["text"]
    assert all(check["state"] == "ok" for check in told["checks"] if check != storage)


def test_tensorflow_s_devices_are_seen_by_a_process_of_its_own(monkeypatch):
    done = subprocess.CompletedProcess([], 0, 'greeting\n["CPU", "GPU", "GPU"]\n', "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    assert cli_doctor._devices() == {"what": "devices", "state": "ok", "text": "1 CPU, 2 GPU"}
    done.stdout, done.stderr = "", "Traceback\nImportError: no TensorFlow\n"
    assert cli_doctor._devices()["text"] == "TensorFlow does not start: ImportError: no TensorFlow"


def test_it_imports_neither_tensorflow_nor_keras_nor_ray(tmp_path):
    code = (
        "import sys; from service import cli; cli.main(['doctor', '--no-devices', '--storage', sys.argv[1]]); "
        "assert not {'tensorflow', 'keras', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)


def test_a_package_that_is_too_old_or_missing_is_named_with_what_to_install(monkeypatch):
    versions = {"keras": "3.12.0", "numpy": None}
    real = environment.version_of
    monkeypatch.setattr(environment, "version_of", lambda name: versions.get(name, real(name)))
    state, text = found()["packages"]
    assert state == "mend"
    assert "keras 3.12.0 is none of <3.16,>=3.15.1: pip install 'keras<3.16,>=3.15.1'" in text
    assert "numpy is not installed: pip install 'numpy>=2.1'" in text


def test_legacy_keras_is_named_with_the_variable(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    state, text = found()["environment"]
    assert state == "mend" and "Unset the variable." in text


@pytest.mark.parametrize(
    "url, words",
    [
        ("https://host/runs", "cannot create a file that exactly one of many writers wins"),
        ("s4://bucket/runs", 'there is no storage "s4://"'),
        ("gs://", "names no bucket"),
    ],
)
def test_a_storage_that_cannot_hold_runs_is_told_without_a_connection(url, words):
    state, text = found(url)["storage"]
    assert state == "mend" and words in text


def test_a_bucket_that_is_not_there_and_one_that_is(s3_address, monkeypatch):
    options = s3_options(s3_address)
    for name, value in (("URL", s3_address), ("URL_S3", s3_address)):
        monkeypatch.setenv(f"AWS_ENDPOINT_{name}", value)
    for name, value in (("ACCESS_KEY_ID", options["key"]), ("SECRET_ACCESS_KEY", options["secret"]), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    state, text = found("s3://no-such-bucket/runs")["storage"]
    assert state == "mend" and "Create the bucket first." in text
    assert found("s3://bucket/runs")["storage"][0] == "ok"


@pytest.fixture
def job_server() -> Iterator[tuple[str, set[str | None]]]:
    """A stand-in for a job server, and the tokens that it lets in; None among them is no token."""
    lets_in: set[str | None] = set()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization")
            token = shown.removeprefix("Bearer ") if shown else None
            self.send_response(200 if token in lets_in or None in lets_in else 401 if token is None else 403)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", lets_in
        server.shutdown()


def test_a_cluster_that_lets_everybody_in_is_a_warning_and_says_how_to_close_it(job_server, capsys):
    address, lets_in = job_server
    lets_in.add(None)
    assert cli.main(["doctor", "--no-devices", "--address", address]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert f"{address} lets everybody in. Ray runs any code for whoever reaches it" in line
    assert "ray get-auth-token --generate" in line and "RAY_AUTH_MODE=token" in line


def test_each_step_to_a_cluster_that_asks_for_a_token_is_told(job_server, tmp_path, monkeypatch):
    address, lets_in = job_server
    lets_in.add(TOKEN)
    assert found(address=address)["cluster"][0] == "mend" and "there is none in" in found(address=address)["cluster"][1]
    (tmp_path / "token").write_text(TOKEN[::-1])
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert "refuses the token in" in found(address=address)["cluster"][1]
    (tmp_path / "token").write_text(TOKEN)
    assert "RAY_AUTH_MODE=token is set. Set it." in found(address=address)["cluster"][1]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert found(address=address)["cluster"] == (
        "ok",
        f"{address} takes the token in {tmp_path / 'token'}, and lets nobody in without one",
    )


@pytest.mark.parametrize("scheme", ["http://", "", "ray://"])
def test_a_cluster_that_does_not_answer_is_told(scheme):
    address = f"{scheme}127.0.0.1:{free_ports(1)[0]}"
    state, text = found(address=address)["cluster"]
    assert (state, text.startswith(f"{address} does not answer.")) == ("mend", True)


def test_a_token_is_not_sent_on_to_where_a_server_redirects(job_server):
    address, lets_in = job_server
    lets_in.add(None)

    class Redirects(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{address}/api/jobs/")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Redirects) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert knock.ask(f"http://127.0.0.1:{server.server_port}", TOKEN) == "is no Ray head"
        server.shutdown()


def test_a_token_that_others_can_read_is_a_warning(tmp_path, monkeypatch):
    folder = Path("/tmp") / f"samestep-{os.getpid()}"  # a place that others reach, unlike pytest's own
    folder.mkdir()
    try:
        token = folder / "token"
        token.write_text(TOKEN)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        token.chmod(0o644)
        assert found()["token"] == ("warning", f"{token} can be read by other users of this machine: chmod 600 {token}")
        token.chmod(0o600)
        assert found()["token"] == ("ok", f"in {token}")
    finally:
        (folder / "token").unlink()
        folder.rmdir()


def test_a_machine_where_ray_s_token_is_turned_off_is_a_warning(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    state, text = found()["token"]
    assert state == "warning" and "Unset it." in text


@pytest.mark.soak
@pytest.mark.ray
def test_a_real_head_without_a_token_is_found_open_at_each_door():
    with ray_heads.started("--node-ip-address", "127.0.0.2", cpus=1, RAY_AUTH_MODE="disabled") as head:
        for address in (head.address, f"127.0.0.2:{head.port}"):
            assert found(address=address)["cluster"][0] == "warning", address
