"""What a process is told that starts TensorFlow before the service does."""

import subprocess
import sys

LATE = """
import tensorflow as tf
from service.cluster import strategy
tf.zeros(3) + 1
strategy.use_threads(3)
"""


def test_a_process_that_has_used_tensorflow_is_told_that_its_threads_stay():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True, timeout=60)
    assert "other threads than threads_per_worker=3: the last bits may differ" in done.stdout
