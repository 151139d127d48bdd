"""The first signal asks, the second insists, and the handlers are the caller's again afterwards."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from service.cluster import notice
from service.storage import layout
from service.storage.commits import CommitLog
from service.storage.store import Store


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_in_a_thread_and_the_block_goes_on(number, capsys):
    asked = threading.Event()
    before = signal.getsignal(number)
    with notice.signals(asked.set):
        signal.raise_signal(number)
        assert asked.wait(10)
    assert signal.getsignal(number) is before
    assert "commit a checkpoint and stop. A second signal stops them at once." in capsys.readouterr().err


def test_the_second_signal_interrupts():
    before = signal.getsignal(signal.SIGINT)  # a shell's background job has it ignored
    asked = []
    with pytest.raises(KeyboardInterrupt), notice.signals(lambda: asked.append(1)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_wish_that_leads_to_nothing_becomes_an_order(monkeypatch):
    monkeypatch.setattr(notice, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt), notice.signals(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30)


def test_outside_the_main_thread_signals_stay_as_they_are():
    found = []

    def look():
        with notice.signals(lambda: None):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.processes
def test_a_run_in_one_process_commits_at_ctrl_c_and_its_command_goes_on_from_there(tmp_path):
    words = [sys.executable, "-m", "tests.kill_jobs", "--workers", "0", "--storage", str(tmp_path), "--name", "cut"]
    words += ["--notes", str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [*words, "--epochs", "5000"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch 1/5000")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    said = re.search(r"It is committed at epoch (\d+), step (\d+); the same command continues it from there", err)
    assert said, err
    epoch, step = map(int, said.groups())
    log = CommitLog(Store(str(tmp_path / "cut")))
    log.refresh()
    assert (log.checkpoints()[0].body["epoch"], log.checkpoints()[0].body["step"]) == (epoch - 1, step)
    assert not (tmp_path / "cut" / layout.LEASE).exists()
    done = subprocess.run([*words, "--epochs", str(epoch)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^epoch (\d+)/", done.stdout, re.MULTILINE) == [str(epoch)]


@pytest.mark.processes
@pytest.mark.soak
def test_a_run_whose_time_is_over_commits_and_says_where(tmp_path):
    words = [sys.executable, "-m", "tests.kill_jobs", "--workers", "0", "--storage", str(tmp_path), "--name", "timed"]
    words += ["--notes", str(tmp_path), "--epochs", "100000", "--patience", "100000", "--max-seconds", "9"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    said = re.search(r"It is committed at epoch (\d+), step (\d+)", done.stderr)
    assert said, done.stderr
    log = CommitLog(Store(str(tmp_path / "timed")))
    log.refresh()
    assert log.checkpoints()[0].body["step"] == int(said[2])


def test_a_block_that_ends_in_time_is_not_asked_to_leave():
    asked: list[int] = []
    with notice.time_limit(0.05, lambda: asked.append(1)):
        pass
    with notice.time_limit(None, lambda: asked.append(2)):
        time.sleep(0.1)
    assert asked == []
