"""When a checkpoint is due."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SavePolicy:
    """A checkpoint is due every so many epochs.

    Attributes:
        every_epochs: complete epochs between checkpoints; None saves at the end only.
    """

    every_epochs: int | None = 1

    def is_due(self, epochs_done: int) -> bool:
        """Whether a checkpoint is due now that `epochs_done` epochs are complete."""
        return self.every_epochs is not None and epochs_done % self.every_epochs == 0
