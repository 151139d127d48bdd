"""What passes between a run's driver, controller and workers, by way of an actor of its own."""

import asyncio
import contextlib
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def started() -> Any:
    """Returns a relay on the driver's own node, whatever becomes of the others; a new one takes its place should it die."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Relay.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray's decorator adds it


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Relay:
    """Keeps what one end gives until the other fetches it; asynchronous, so calls act one at a time and in order."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._arrived = asyncio.Event()
        self._asked: dict[str, asyncio.Event] = {"leave": asyncio.Event(), "move": asyncio.Event()}
        self._moved = asyncio.Event()
        self._ended = asyncio.Event()
        self._beats: dict[str, dict[int, tuple[str, float, float]]] = {}
        self._problems: dict[str, str] = {}
        self._busy: dict[str, dict[int, float]] = {}

    async def put(self, text: str) -> None:
        """Takes text that the chief printed."""
        self._text.append(text)
        self._arrived.set()

    async def take(self, wait_seconds: float) -> str:
        """Returns the text there is, as soon as there is any."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), wait_seconds)
        self._arrived.clear()
        text, self._text = self._text, []
        return "".join(text)

    async def beat(
        self, group: str, worker: int, phase: str, seconds: float, problem: str
    ) -> tuple[list[tuple[str, float, float]], str]:
        """Takes where a worker of a group is, and what is wrong; returns (phase, seconds, age) of the others, and a problem."""
        now = time.monotonic()
        beats = self._beats.setdefault(group, {})
        beats[worker] = (phase, seconds, now)
        if problem and group not in self._problems:
            self._problems[group] = problem
            await self.put(f"Worker {worker} is stuck: {problem}. What every worker does is written down; all start again.\n")
        others = [(phase, seconds, now - told) for other, (phase, seconds, told) in beats.items() if other != worker]
        return others, self._problems.get(group, "")

    async def busiest(self, group: str, worker: int, busy_seconds: float) -> int:
        """Takes how long a worker of a group works in a step; returns who of them works longest."""
        told = self._busy.setdefault(group, {})
        told[worker] = busy_seconds
        return max(told, key=lambda other: told[other])

    async def begin_group(self) -> None:
        """New workers start: what the last ones were asked is done."""
        self._asked["move"].clear()
        self._moved.clear()

    async def ask(self, what: str) -> None:
        """Has `asked` return "leave" (the run stops) or "move" (other workers go on), now and from now on."""
        self._asked[what].set()

    async def asked(self) -> str:
        """Returns what the workers are asked, as soon as they are."""
        waiting = {asyncio.create_task(event.wait()): what for what, event in self._asked.items()}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return min(waiting[task] for task in done)

    async def tell_moved(self) -> None:
        """The workers make way: they have committed, or one of them failed and they never will."""
        self._moved.set()

    async def moved(self, wait_seconds: float) -> bool:
        """Returns whether they do, as soon as that is known."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), wait_seconds)
        return self._moved.is_set()

    async def end(self) -> None:
        """The chief's job is over: who serves it may go."""
        self._ended.set()

    async def ended(self) -> None:
        """Returns when it is."""
        await self._ended.wait()
