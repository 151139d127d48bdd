"""SIGTERM to any worker process is heard by all workers of the attempt."""

import signal
import threading

from service.cluster.notice import Notice

# TensorFlow's own: its handler of SIGTERM, which takes the place of Python's, writes there for all workers to read.
_KEY = "TF_DEFAULT_PREEMPTION_NOTICE_KEY"

_terminated = threading.Event()


def hear() -> None:
    """Has this process note SIGTERM instead of dying of it; on its main thread, before TensorFlow starts."""
    signal.signal(signal.SIGTERM, lambda number, frame: _terminated.set())


def pass_on(notice: Notice, has_peers: bool) -> None:
    """Has the notice ask for a move once this process, or a peer, was sent SIGTERM.

    Args:
        notice: this worker's.
        has_peers: whether TensorFlow's coordination service runs, and with it TensorFlow's handler.
    """

    def wait_for_any() -> None:
        from tensorflow.python.eager import context

        context.context().get_config_key_value(_KEY)
        notice.give_move()

    def wait_for_mine() -> None:
        _terminated.wait()
        notice.give_move()

    if has_peers:
        notice.after(wait_for_any)
    notice.after(wait_for_mine)  # it may have come before TensorFlow's handler did
