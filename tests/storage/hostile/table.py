"""All runs that somebody else has written, by what is wrong with them."""

from tests.storage.hostile import commits, models, records, tensors
from tests.storage.hostile.cases import HOSTILE

PARTS = (commits, tensors, records, models)  # each adds its own where it is imported
__all__ = ["HOSTILE"]
