"""A run whose driver's command is given again whenever it is killed, and whose workers write down their steps."""

from collections.abc import Callable
from pathlib import Path

from service.storage.commits import CommitLog
from service.storage.store import Store
from tests.paced_jobs import attempts
from tests.test_kills import Driver, wait_for


class Undertaking:
    """One run of `tests.paced_jobs` on two workers.

    Args:
        store: where the run is.
        notes: an empty folder for what the workers write.
        start: starts a driver's process.
        words: of the command, besides those that name the run.
    """

    def __init__(self, store: Store, notes: Path, start: Callable[..., Driver], *words: str) -> None:
        self.store, self.notes, self._start, self._words = store, notes, start, words
        self.begin()

    def begin(self) -> None:
        """Gives the command."""
        storage, _, name = self.store.url.rpartition("/")
        words = ("--storage", storage, "--name", name, "--notes", str(self.notes))
        self.driver = self._start("tests.paced_jobs", *words, *self._words)

    def committed(self) -> int:
        """Returns the step of the newest checkpoint."""
        log = CommitLog(self.store)
        log.refresh()
        return max((entry.body["step"] for entry in log.checkpoints()), default=0)

    def await_steps(self, attempt: int) -> None:
        """Returns once an attempt, counted from 0, has taken a few steps."""

        def has_begun() -> bool:
            found = attempts(self.notes)
            return len(found) > attempt and len(found[-1]) == 2 and all(len(page.steps) > 5 for page in found[-1])

        wait_for(has_begun, self.driver)

    def await_commit_after(self, step: int, attempt: int) -> None:
        """Returns once a later step is committed, or the attempt has ended without."""
        wait_for(lambda: self.committed() > step or len(attempts(self.notes)) > attempt + 1, self.driver)

    def end(self) -> int:
        """Has the run stop a little later, and returns after which step it does."""
        last = attempts(self.notes)[-1][0].steps[-1] + 50
        (self.notes / "last-step").write_text(str(last))
        assert self.driver.wait() == 0, self.driver.printed()
        return last
