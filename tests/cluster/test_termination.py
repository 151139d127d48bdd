"""SIGTERM to a worker that has no peers."""

import subprocess
import sys

TERMINATED = """
import os, signal, time
from service.cluster import termination
from service.cluster.notice import Notice
notice = Notice()
termination.hear()
termination.pass_on(notice, has_peers=False)
assert not notice.is_given()
os.kill(os.getpid(), signal.SIGTERM)
while not notice.is_given():
    time.sleep(0.01)
print(notice.is_end())
"""


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_an_only_worker_that_is_sent_sigterm_wishes_to_make_way_and_not_to_end_the_run():
    assert printed(TERMINATED) == "False\n"
