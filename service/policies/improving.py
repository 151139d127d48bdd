"""When a watched number counts as better."""

import dataclasses
import struct

_STRUCT = {"float16": "e", "float32": "f", "float64": "d"}


@dataclasses.dataclass(frozen=True)
class Better:
    """Whether a number is better than another one, compared as Keras compares: in its float type.

    Attributes:
        mode: "min" where a smaller number is better, "max" where a larger one is.
        min_delta: by how much it must be better, 0 or more.
        floatx: Keras's float type, to which both sides are rounded.
    """

    mode: str
    min_delta: float = 0.0
    floatx: str = "float32"

    def than(self, value: float, other: float | None) -> bool:
        """Whether `value` is better than `other`; anything is better than None, nothing than NaN."""
        if other is None:
            return True
        if self.mode == "min":
            return self._rounded(value + self.min_delta) < self._rounded(other)
        return self._rounded(value - self.min_delta) > self._rounded(other)

    def _rounded(self, value: float) -> float:
        kind = _STRUCT.get(self.floatx, "d")
        try:
            return struct.unpack(kind, struct.pack(kind, value))[0]
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")


def mode_of(mode: str, monitor: str) -> str:
    """Returns "min" or "max"; of "auto" as Keras 2 took it from the name: accuracies, AUC and F-measures grow."""
    if mode != "auto":
        return mode
    name = monitor.removeprefix("val_")
    grows = "acc" in name or name.endswith(("auc", "AUC")) or name.startswith("fmeasure")
    return "max" if grows else "min"
