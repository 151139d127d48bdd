"""How an epoch becomes global batches, and a global batch the rows of each replica."""

from typing import Literal

import numpy as np

Shuffle = bool | Literal["batch"]


def epoch_order(n: int, seed: int, epoch: int, shuffle: Shuffle = True, batch_size: int = 32) -> np.ndarray:
    """Returns [n] int64: which row of the data stands where in an epoch.

    A function of the seed and the epoch alone, never of the number of workers, from numpy's
    RandomState, whose stream is frozen. Global batch i holds the entries i * batch_size and on.

    Args:
        n: rows of the data.
        seed: the run's seed, 0 <= seed < 2**32.
        epoch: the epoch's number, from 0.
        shuffle: True permutes all rows, "batch" the rows inside each batch, False none.
        batch_size: the global batch, for shuffle="batch".
    """
    order = np.arange(n)
    if shuffle is False or n == 0:
        return order
    random = np.random.RandomState([seed, epoch])
    if shuffle == "batch":
        return np.concatenate([random.permutation(order[i : i + batch_size]) for i in range(0, n, batch_size)])
    return random.permutation(order)


def cut(total: int, replicas: int, replica: int) -> tuple[int, int]:
    """Returns the first row of `replica` (from 0) in a global batch of `total` rows, and how many it holds.

    Replica r of R holds floor(r B / R) up to floor((r + 1) B / R); where that is none, it runs a
    copy of the first one (see `exact.group.Rows`).
    """
    start = replica * total // replicas
    return start, (replica + 1) * total // replicas - start
