"""Which kind of source fit was given."""

from typing import Any

import keras
import tensorflow as tf

from service.cluster.consensus import Council
from service.data.batches import Shuffle
from service.data.datasets import Dataset
from service.data.generators import Generated
from service.data.pydatasets import Indexed
from service.data.sources import Arrays
from service.data.streams import Stream
from service.errors import DataInvalid


def opened(
    x: Any,
    y: Any,
    sample_weight: Any,
    council: Council,
    *,
    shuffle: Shuffle = False,
    seed: int = 0,
    same_everywhere: bool = False,
    of: str = "",
) -> Arrays | Stream:
    """Returns the source that fit's arguments name: arrays, or a stream of batches. Collective: every worker calls this.

    Args:
        x: arrays, a tf.data.Dataset, a keras.utils.PyDataset or an iterator; the last three yield whole
            global batches (x, y) or (x, y, sample_weight).
        shuffle, seed: the order of a PyDataset's batches; a pipeline or iterator has its own.
        same_everywhere: every worker's iterator gives the same batches, so that none need be sent.
        of: what stands in front of an argument's name in messages.

    Raises:
        DataInvalid: y or sample_weight beside a stream, which brings its own.
    """
    stream: Stream
    if isinstance(x, tf.data.Dataset):
        kind = "tf.data.Dataset"
    elif isinstance(x, keras.utils.PyDataset):
        kind = "PyDataset"
    elif hasattr(x, "__next__"):
        kind = "generator"
    else:
        return Arrays(x, y, sample_weight, of=of)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise DataInvalid(f"{of}{name} is given beside a {kind}: have that yield (x, y) or (x, y, sample_weight) instead.")
    if isinstance(x, tf.data.Dataset):
        stream = Dataset(x, council, of)
    elif isinstance(x, keras.utils.PyDataset):
        stream = Indexed(x, council, shuffle, seed, of)
    else:
        stream = Generated(x, council, same_everywhere, of)
    return stream
