"""When a checkpoint is due."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SavePolicy:
    """A checkpoint is due by whichever of three counts says so; None switches one off.

    Attributes:
        every_steps: complete steps between checkpoints.
        every_seconds: the age of the last checkpoint at which the chief asks for another.
        every_epochs: complete epochs between checkpoints.
    """

    every_steps: int | None = None
    every_seconds: float | None = None
    every_epochs: int | None = 1

    def is_due_at_step(self, step: int) -> bool:
        """Whether a checkpoint is due now that `step` steps are complete."""
        return self.every_steps is not None and step % self.every_steps == 0

    def is_due_at_epoch(self, epochs_done: int) -> bool:
        """Whether a checkpoint is due now that `epochs_done` epochs are complete."""
        return self.every_epochs is not None and epochs_done % self.every_epochs == 0

    def is_due_by_age(self, seconds: float) -> bool:
        """Whether a checkpoint is due now that the last one is `seconds` old."""
        return self.every_seconds is not None and seconds >= self.every_seconds
