"""The command line shows what a run's workers printed."""

import os
import subprocess
import sys

import pytest

from service import cli, cli_logs, record
from service.errors import RunInvalid
from service.run import Run
from service.storage import layout
from service.storage.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "vae-1"))
    record.begin(store, Run("vae-1", str(tmp_path)), "jobs.digits_vae:train", {}, "source")
    printed = ((0, "20260101T000000", "first\n"), (1, "20260101T000000", "other\n"), (0, "20260102T000000", "again\n"))
    for worker, began, text in printed:
        store.write(layout.output(worker, began), text.encode())
    return store


def test_each_process_s_output_stands_under_its_name_in_the_order_they_began(store, capsys):
    assert cli.main(["logs", store.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("==> worker-0/20260101T000000 <==", "first"),
        *("==> worker-1/20260101T000000 <==", "other"),
        *("==> worker-0/20260102T000000 <==", "again"),
    ]


def test_one_worker_s_output_alone(store, capsys):
    assert cli.main(["logs", store.url, "--worker", "1"]) == 0
    assert capsys.readouterr().out == "==> worker-1/20260101T000000 <==\nother\n"


def test_what_is_printed_later_follows(store):
    def later(seconds):
        path = layout.output(0, "20260102T000000")
        store.write(path, store.read(path) + b"more\n")

    found = cli_logs.lines(store, worker=0, follow=True, sleep=later)
    assert [next(found) for _ in range(6)][3:] == ["again\n", "more\n", "more\n"]


def test_a_worker_that_printed_nothing_is_named_with_those_that_did(store, capsys):
    with pytest.raises(RunInvalid, match=r"keeps no output of worker 7\. There is: worker-0, worker-1\."):
        next(cli_logs.lines(store, worker=7))
    assert cli.main(["logs", store.url, "--worker", "7"]) == 2


def test_a_process_s_output_is_kept_when_it_is_killed_and_reaches_where_it_went_before(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "from service.cluster import output\n"
        "output.COPY_SECONDS = 0.05\n"
        f"kept = output.Output({str(tmp_path / 'deep' / 'out')!r})\n"
        "print('printed', flush=True); os.system('echo by another program'); print('an error', file=sys.stderr)\n"
        "kept.write('relayed\\n'); time.sleep(0.5); print('the last words', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    lines = ["printed", "by another program", "an error", "relayed"]
    assert (tmp_path / "deep" / "out").read_text().splitlines() == [*lines, "the last words"]
    assert done.stdout.splitlines()[:4] == lines
