"""Restoring runs nothing that the files bring, imports nothing and writes nothing."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from service.storage import layout
from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.storage.faults import save

# Run in a process of its own: an audit hook cannot be taken away again.
SCRIPT = """
import json, sys
from service.errors import Corrupt
from service.storage import restore
from service.storage.commits import CommitLog
from service.storage.store import Store

def read(url):
    log = CommitLog(Store(url))
    log.refresh()
    try:
        found = restore.newest(log)
        return found and found.entry.number
    except Corrupt:
        return "corrupt"

read(sys.argv[1])  # what is imported late, is now
seen = []
CODE = ("pickle.find_class", "marshal.loads", "exec", "compile", "import", "os.system", "subprocess.Popen", "ctypes.dlopen")

def audit(event, args):
    if event in CODE:
        seen.append(f"{event} {args[0]!r:.80}")
    if event == "open" and isinstance(args[1], str) and any(letter in args[1] for letter in "wax+"):
        seen.append(f"wrote {args[0]!r:.80}")

sys.addaudithook(audit)
answers = [read(url) for url in sys.argv[1:]]
print(json.dumps([answers, seen]))
"""


class Bomb:
    """What runs where it is unpickled."""

    def __reduce__(self):
        return (os.system, ("echo pwned",))


def run_in(folder):
    """Returns the store of a run with two checkpoints."""
    log = CommitLog.open(Store(str(folder)), "a1")
    save(log, 2, save(log, 1).body["shards"])
    return log.store


def hostile_shard(store, content):
    """Puts other bytes where the newest checkpoint's files are."""
    for path in store.list(layout.SHARDS):
        store.write(path, content)


PICKLED = pickle.dumps({"weights": Bomb()})
HOSTILE = {
    "a pickle for a shard": lambda s: hostile_shard(s, PICKLED),
    "a zip of pickles for a shard": lambda s: hostile_shard(s, b"PK\x03\x04" + PICKLED),
    "an array of objects for a shard": lambda s: hostile_shard(s, b"\x93NUMPY\x01\x00" + PICKLED),
    "a header that names 2**60 bytes": lambda s: hostile_shard(s, (2**60).to_bytes(8, "little") + b"{}"),
    "a pickle for an entry": lambda s: s.write(layout.commit(3), PICKLED),
    "a pickle for a later entry": lambda s: s.write(layout.commit(4), PICKLED),
    "code for an entry": lambda s: s.write(layout.commit(3), b"__import__('os').system('echo pwned')"),
    "a pickle for run.json": lambda s: s.write(layout.RUN, PICKLED),
    "a class for a state": lambda s: s.write(
        layout.commit(4), json.dumps({"kind": "checkpoint", "body": {"$class": "os:system"}}).encode()
    ),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What restoring each hostile run gave, and what the process did meanwhile."""
    stores = {name: run_in(tmp_path_factory.mktemp("run")) for name in ("whole", *HOSTILE)}
    for name, spoil in HOSTILE.items():
        spoil(stores[name])
    command = [sys.executable, "-c", SCRIPT, *(store.url for store in stores.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pwned" not in done.stdout
    answers, events = json.loads(done.stdout)
    return dict(zip(stores, answers, strict=True)), events


def test_no_code_runs_and_nothing_is_imported_or_written(seen):
    assert seen[1] == []


def test_a_hostile_run_goes_back_to_what_is_whole_or_is_refused(seen):
    answers = seen[0]
    assert answers["whole"] == 3
    for name in HOSTILE:
        expected = {"corrupt"} if "shard" in name or "2**60" in name else {2} if name.endswith(("for an entry",)) else {3}
        assert {answers[name]} == expected, name
