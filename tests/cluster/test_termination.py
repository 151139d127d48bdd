"""SIGTERM to a worker that has no peers, and threads that TensorFlow was given too late."""

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
LATE = """
import tensorflow as tf
from service.cluster import strategy
tf.zeros(3) + 1
strategy.use_threads(3)
"""


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_an_only_worker_that_is_sent_sigterm_wishes_to_make_way_and_not_to_end_the_run():
    assert printed(TERMINATED) == "False\n"


def test_a_process_that_has_used_tensorflow_is_told_that_its_threads_stay():
    assert "other threads than threads_per_worker=3: the last bits may differ" in printed(LATE)
