"""Canaries: secrets planted in real runs, commands and errors are found in nothing that these leave or print."""

import base64
import contextlib
import json
import os
import pickle
import re
import secrets
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import service
from service import cli, cli_verify, secrecy
from service.errors import JobFailed, OptionUnknown, RunInvalid, StorageError
from service.storage import retries
from service.storage.store import Store
from tests import secret_jobs

ONCE = retries.Policy(deadline_seconds=0.0)
PORT_OF_NOBODY = 9
HERE = Path(__file__).parents[1]
# A job whose command starts at once, for it imports neither Keras nor TensorFlow.
QUICK = """
import dataclasses, sys, service

@dataclasses.dataclass(frozen=True)
class Options:
    gate: str | None = None

def train(worker): ...

if __name__ == "__main__":
    sys.exit(service.command(train, Options, name="quick"))
"""


def planted(*more: str) -> dict[str, str]:
    """Returns new secrets by the names of the variables that hold them."""
    return {name: f"{name[:2]}{secrets.token_hex(16)}" for name in (*secret_jobs.VARIABLES, *more)}


def hits(data: bytes, canaries: Mapping[str, str]) -> list[str]:
    """Returns which secrets stand in some bytes, as they are or in base64."""
    forms = {name: (value.encode(), base64.b64encode(value.encode()).rstrip(b"=")[:-1]) for name, value in canaries.items()}
    return [name for name, written in forms.items() if any(form in data for form in written)]


def files_with(folder: Path, canaries: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the files that hold secrets, in their names or their bytes."""
    found = {}
    for path in folder.rglob("*"):
        data = str(path).encode()
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                data += path.read_bytes()
        if names := hits(data, canaries):
            found[str(path.relative_to(folder))] = names
    return found


@pytest.fixture
def canaries(monkeypatch) -> dict[str, str]:
    """Secrets in this process's environment and, as an author's own command might have one, among its words."""
    found = planted("RAY_AUTH_TOKEN", "API_KEY")
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["script.py", "--api-key", found["API_KEY"], f"--password={found['DATABASE_PASSWORD']}"])
    return found


def test_the_search_finds_a_secret_in_a_name_in_bytes_and_in_base64(tmp_path):
    canary = {"HF_TOKEN": secrets.token_hex(16)}
    (tmp_path / canary["HF_TOKEN"]).mkdir()
    (tmp_path / "bytes").write_bytes(b"\0" + canary["HF_TOKEN"].encode() + b"\1")
    (tmp_path / "base64").write_bytes(base64.b64encode(canary["HF_TOKEN"].encode()))
    (tmp_path / "nothing").write_bytes(b"HF_TOKEN")
    assert files_with(tmp_path, canary).keys() == {canary["HF_TOKEN"], "bytes", "base64"}


def test_a_finished_run_holds_no_secret_and_what_its_callback_counted(tmp_path, canaries, capfd):
    run = service.Run("a", str(tmp_path), workers=0, save_every_steps=1)
    result = service.train(secret_jobs.train, run, gate=None, fails=False)
    assert files_with(tmp_path, canaries) == {}
    assert hits("".join(capfd.readouterr()).encode(), canaries) == []
    there = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"run.json", "commits", "shards", "logs", "history.json", "model.json", "model.keras"} <= there
    assert json.loads((tmp_path / "a" / "run.json").read_text())["command"] == [
        "script.py",
        "--api-key",
        "***",
        "--password=***",
    ]
    assert len(result.history["loss"]) == 2
    entries = [path.read_text() for path in (tmp_path / "a" / "commits").iterdir()]
    assert any(re.search(r'"epochs_reported":\s*2', entry) for entry in entries)
    assert [problem for check in cli_verify.checks(Store(result.url)) for problem in check["problems"]] == []


def test_a_job_s_error_tells_what_happened_without_the_secrets_in_its_text(tmp_path, canaries, capfd):
    with pytest.raises(JobFailed) as failed:
        service.train(secret_jobs.train, service.Run("a", str(tmp_path), workers=0), gate=None, fails=True)
    told = "".join(traceback.format_exception(failed.value))
    assert "the service does not take *** *** ***, nor https://user:***@host/" in told
    assert "secret_jobs.py" in told
    assert hits(told.encode(), canaries) == [] and hits("".join(capfd.readouterr()).encode(), canaries) == []
    assert files_with(tmp_path, canaries) == {}


def test_an_error_without_secrets_keeps_its_cause(tmp_path, canaries):
    def job(worker: service.Worker) -> None:
        raise ValueError("the author's mistake")

    with pytest.raises(JobFailed) as failed:
        service.train(job, service.Run("a", str(tmp_path), workers=0))
    assert isinstance(failed.value.__cause__, ValueError)


@pytest.mark.parametrize("name, value", [("hf_token", "{}"), ("database", "postgres://user:{}@host/db")])
def test_a_secret_option_is_refused_before_anything_is_written(tmp_path, canaries, capfd, name, value):
    with pytest.raises(OptionUnknown) as refused:
        service.train(
            secret_jobs.train, service.Run("a", str(tmp_path), workers=0), **{name: value.format(canaries["HF_TOKEN"])}
        )
    assert hits(str(refused.value).encode(), canaries) == []
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", [["--gate", "https://user:{}@host/"], ["--storage", "s3://key:{}@bucket/runs"]])
def test_a_command_refuses_a_secret_and_its_message_does_not_repeat_it(tmp_path, canaries, capfd, words):
    argv = [*words[:1], words[1].format(canaries["HF_TOKEN"])]
    assert service.command(secret_jobs.train, secret_jobs.Options, name="a", argv=argv) == 2
    printed = "".join(capfd.readouterr())
    assert "secret" in printed and hits(printed.encode(), canaries) == []


def test_an_option_whose_default_is_a_secret_is_refused_where_the_help_would_show_it(canaries, capfd):
    import dataclasses

    options = dataclasses.make_dataclass("Options", [("hf_token", str, canaries["HF_TOKEN"])], frozen=True)
    with pytest.raises(OptionUnknown) as refused:
        service.command(secret_jobs.train, options, name="a", argv=["--help"])
    assert hits((str(refused.value) + "".join(capfd.readouterr())).encode(), canaries) == []


def test_a_url_with_a_secret_names_no_run_and_no_store(canaries):
    url = f"s3://key:{canaries['HF_TOKEN']}@bucket/runs"
    for make in (lambda: service.Run("a", url), lambda: Store(url), lambda: secrecy.check_url(url)):
        with pytest.raises(RunInvalid) as refused:
            make()
        assert hits("".join(traceback.format_exception(refused.value)).encode(), canaries) == []


def failing(canaries: Mapping[str, str], address: str) -> Iterator[Store]:
    """Yields stores that refuse or reach nobody, whose options hold secrets."""
    password = canaries["DATABASE_PASSWORD"]
    options = {"key": "me", "secret": canaries["AWS_SECRET_ACCESS_KEY"], "client_kwargs": {"region_name": "us-east-1"}}
    yield Store("s3://none/a", retry=ONCE, endpoint_url=f"http://me:{password}@127.0.0.1:{PORT_OF_NOBODY}", **options)
    yield Store("s3://no-such-bucket/a", retry=ONCE, endpoint_url=address, **options)
    gcs = {"project": "project", "token": {"token": canaries["HF_TOKEN"], "refresh_token": password, "type": "authorized_user"}}
    yield Store("gs://none/a", retry=ONCE, endpoint_url=f"http://me:{password}@127.0.0.1:{PORT_OF_NOBODY}", **gcs)


def test_a_storage_that_fails_tells_neither_its_options_nor_its_endpoint_s_password(canaries, s3_address, monkeypatch):
    for client in ("s3fs.S3FileSystem", "gcsfs.GCSFileSystem"):
        monkeypatch.setattr(f"{client}.retries", 1)
    for store in failing(canaries, s3_address):
        with pytest.raises(StorageError) as failed:
            store.check()
        told = "".join(traceback.format_exception(failed.value))
        assert hits(told.encode(), canaries) == [], told
        assert repr(pickle.loads(pickle.dumps(store))) == f"Store({store.url!r})"


class Broken:
    """A place whose errors repeat what they were called with, as some clients' do."""

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self._text = f"403 for https://host/a?X-Goog-Signature={options['signature']} with {options['token']}"

    def size(self, path: str) -> int:
        raise PermissionError(self._text)


def test_a_client_that_repeats_its_credentials_is_not_repeated(canaries):
    store = Store("gs://b/a", retry=ONCE, connect=Broken, token=canaries["HF_TOKEN"], signature=canaries["API_KEY"])
    with pytest.raises(
        StorageError, match=r'Could not find "x" in gs://b/a: PermissionError: 403 for https://host/a\?X-Goog'
    ) as e:
        store.exists("x")
    assert hits("".join(traceback.format_exception(e.value)).encode(), canaries) == []


def test_no_command_prints_a_secret(tmp_path, canaries, capsys, monkeypatch):
    token = canaries["HF_TOKEN"]
    (tmp_path / "file").touch()
    commands: Iterable[list[str]] = (
        ["doctor", "--no-devices", "--storage", str(tmp_path), "--address", f"127.0.0.1:{PORT_OF_NOBODY}"],
        ["doctor", "--no-devices", "--json", "--storage", str(tmp_path / "file")],
        ["doctor", "--no-devices", "--storage", f"s3://key:{token}@bucket", "--address", f"http://me:{token}@127.0.0.1:1"],
        ["doctor", "--no-devices", f"https://me:{token}@host"],
        ["runs", f"s3://key:{token}@bucket/runs"],
        ["show", "--json", f"gs://bucket/a?token={token}"],
        ["verify", f"s3://key:{token}@bucket/a", f"s3://key:{token}@bucket/b"],
        ["manifest", "tests.secret_jobs", "--overlay", "local", "--name", "a", "--env", f"HF_TOKEN={token}"],
        ["manifest", "tests.secret_jobs", "--overlay", "local", "--name", "a", "--storage", f"s3://key:{token}@bucket"],
    )
    for words in commands:
        code = cli.main(words)
        printed = "".join(capsys.readouterr())
        assert hits(printed.encode(), canaries) == [], (words, printed)
        assert code in (1, 2) and printed, words


def test_a_manifest_names_the_secret_and_has_none_of_the_job_s_own(canaries, capsys, tmp_path, monkeypatch, environment):
    (tmp_path / "quick.py").write_text(QUICK)
    for name, value in (("PATH", environment["PATH"]), ("PYTHONPATH", f"{tmp_path}{os.pathsep}{HERE}")):
        monkeypatch.setenv(name, value)
    words = ["manifest", "quick", "--overlay", "local", "--name", "a", "--secret-env", "HF_TOKEN=hub:token"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "secretKeyRef" in printed and hits(printed.encode(), canaries) == []
    for secret in (f"https://user:{canaries['HF_TOKEN']}@host/", f"hf_{canaries['HF_TOKEN']}"):
        assert cli.main([*words, "--", "--gate", secret]) == 2
        printed = "".join(capsys.readouterr())
        assert "secret" in printed and hits(printed.encode(), canaries) == []
