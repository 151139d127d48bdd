"""What passes between a run's driver and its chief, by way of an actor of its own."""

import asyncio
import contextlib
import time

import ray


@ray.remote(num_cpus=0)
class Relay:
    """Keeps what one end gives until the other fetches it; asynchronous, so calls act one at a time and in order."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._arrived = asyncio.Event()
        self._leave = asyncio.Event()
        self._beats: dict[str, dict[int, tuple[str, float, float]]] = {}
        self._problems: dict[str, str] = {}

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

    async def ask_to_leave(self) -> None:
        """Has `asked_to_leave` return, now and from now on."""
        self._leave.set()

    async def asked_to_leave(self) -> None:
        """Returns when the driver wishes that the workers commit and leave."""
        await self._leave.wait()
