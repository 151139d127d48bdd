"""Views are written off the caller's thread, whole, and only the newest of each name."""

import threading

import pytest

from service.errors import StorageAway, StorageError
from service.storage.store import Store
from service.storage.views import Views


class Recording(Store):
    """A store that keeps what is written in order, and may fail or wait."""

    def __init__(self, fails=0):
        super().__init__("memory://views/run")
        self.written = []
        self.fails = fails
        self.gate = threading.Event()
        self.gate.set()

    def write(self, path, *parts):
        data = b"".join(parts)
        self.gate.wait(10)
        if self.fails:
            self.fails -= 1
            raise StorageError(f"{path}: no room")
        self.written.append((path, data, threading.current_thread().name))


def test_a_file_is_written_in_another_thread():
    store = Recording()
    views = Views(store, every_seconds=0)
    views.put("history.json", lambda: b"1")
    views.close()
    assert store.written == [("history.json", b"1", "views")]


def test_only_the_newest_of_a_name_is_written():
    store = Recording()
    store.gate.clear()
    views = Views(store, every_seconds=0)
    views.put("a", lambda: b"0")  # the thread is busy with this one, or about to be
    for i in range(1, 6):
        views.put("b", lambda i=i: str(i).encode())
    store.gate.set()
    views.close()
    written = [data for path, data, _ in store.written if path == "b"]
    assert written[-1] == b"5" and len(written) <= 2


def test_between_two_rounds_nothing_is_written():
    store, now = Recording(), [0.0]
    views = Views(store, every_seconds=30, clock=lambda: now[0])
    views.put("a", lambda: b"1")
    while not store.written:
        threading.Event().wait(0.001)
    views.put("a", lambda: b"2")
    views.put("a", lambda: b"3")
    assert [data for _, data, _ in store.written] == [b"1"]
    views.close()
    assert [data for _, data, _ in store.written] == [b"1", b"3"]


def test_a_write_that_failed_is_tried_again():
    store = Recording(fails=2)
    views = Views(store, every_seconds=0)
    views.put("a", lambda: b"1")
    while not store.written:
        threading.Event().wait(0.001)
    views.close()
    assert [data for _, data, _ in store.written] == [b"1"]


def test_what_could_not_be_written_is_named_at_the_end():
    views = Views(Recording(fails=10**6), every_seconds=30)
    views.put("history.csv", lambda: b"1")
    with pytest.raises(StorageError, match=r"history\.csv: no room"):
        views.close()
    views.close()


def test_closing_with_nothing_to_write_is_nothing():
    Views(Recording()).close()


class Away(Recording):
    """A store that answers nothing; each try would take two minutes."""

    tries = 0

    def write(self, path, *parts):
        self.tries += 1
        raise StorageAway(f"{path}: no answer")


def test_of_a_storage_that_is_away_one_file_a_round_is_tried_and_all_are_named():
    store = Away()
    views = Views(store, every_seconds=30, say=lambda sentence: None)
    for name in "abcde":
        views.put(name, lambda: b"1")
    assert not views.flush()
    rounds = store.tries
    assert views.unwritten() == [*"abcde"]
    with pytest.raises(StorageAway, match=r"Not written: a, b, c, d, e\. \w: no answer"):
        views.close()
    assert rounds <= 2 and store.tries == rounds + 1


def test_what_cannot_be_made_is_named_and_keeps_no_other_file_back():
    store = Recording()
    views = Views(store, every_seconds=30, say=lambda sentence: None)
    views.put("a", lambda: b"%d" % "no number")
    views.put("b", lambda: b"1")
    with pytest.raises(StorageError, match=r'Not written: a\. Could not write "a": TypeError'):
        views.close()
    assert [path for path, _, _ in store.written] == ["b"]


def test_a_file_that_grows_is_added_to_in_a_folder_and_whole_again_where_it_was_lost(tmp_path):
    grown, asked = bytearray(b"one "), []

    def read(begin):
        asked.append(begin)
        return bytes(grown[begin:])

    views = Views(Store(str(tmp_path)))
    for word in (b"two ", b"three ", b""):
        views.put_grown("logs/events", read)
        assert views.flush() and (tmp_path / "logs/events").read_bytes() == grown
        grown += word
    assert asked == [0, 4, 8]
    (tmp_path / "logs/events").unlink()
    views.put_grown("logs/events", read)
    views.close()
    assert (tmp_path / "logs/events").read_bytes() == b"one two three " and asked[-1] == 0
