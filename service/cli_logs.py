"""What a run's workers printed, from the storage."""

import time
from collections.abc import Callable, Iterator

from service.errors import RunInvalid
from service.storage import layout
from service.storage.store import Store

FOLLOW_SECONDS = 2.0


def lines(
    store: Store, worker: int | None = None, follow: bool = False, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yields the text of the workers' output, each process's behind those that began before it, under a line that names it.

    Args:
        store: the run's.
        worker: whose; None is everybody's.
        follow: whether to go on with what is printed later, for ever.
        sleep: waits between two looks.

    Raises:
        RunInvalid: there is no output of that worker; says whose there is.
    """
    seen: dict[str, int] = {}
    shown = ""
    while True:
        sizes = store.sizes("output")
        wanted = sorted((path for path in sizes if worker is None or path.startswith(f"{layout.output(worker)}/")), key=_began)
        if not wanted and not follow:
            there = sorted({path.split("/")[1] for path in sizes})
            raise RunInvalid(
                f"{store.url} keeps no output of {'any worker' if worker is None else f'worker {worker}'}. There is: "
                f"{', '.join(there) or 'none; a run with workers=0 prints to its own terminal alone'}."
            )
        for path in wanted:
            size = sizes[path]
            if size > seen.get(path, 0):
                if path != shown:
                    yield f"==> {path.removeprefix('output/').removesuffix('.log')} <==\n"
                yield store.read_range(path, seen.get(path, 0), size).decode(errors="replace")
                seen[path], shown = size, path
        if not follow:
            return
        sleep(FOLLOW_SECONDS)


def _began(path: str) -> tuple[str, str]:
    """Returns what sorts the files by the time at which their process began."""
    return path.rpartition("/")[2], path
