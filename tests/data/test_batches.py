"""An epoch's order and each replica's rows are functions of the seed, the epoch and the batch alone."""

import hashlib

import numpy as np
import pytest

from service.data.batches import cut, epoch_order


def test_the_order_is_frozen():
    # numpy promises RandomState's stream never to change, so these stay as they are.
    assert epoch_order(8, seed=1, epoch=0).tolist() == np.random.RandomState([1, 0]).permutation(8).tolist()
    whole = np.concatenate([epoch_order(1000, seed=7, epoch=epoch) for epoch in range(3)])
    assert hashlib.sha256(whole.astype("<i8").tobytes()).hexdigest()[:16] == "210c1e36a55bf1f4"


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
@pytest.mark.parametrize("n", [1, 7, 32, 100])
def test_every_row_comes_exactly_once(n, shuffle):
    assert sorted(epoch_order(n, seed=3, epoch=5, shuffle=shuffle, batch_size=8)) == list(range(n))


def test_another_epoch_or_seed_is_another_order():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 2)}
    assert len(orders) == 9


def test_shuffling_inside_batches_keeps_the_batches():
    order = epoch_order(20, seed=4, epoch=2, shuffle="batch", batch_size=6)
    for begin in range(0, 20, 6):
        assert sorted(order[begin : begin + 6]) == list(range(begin, min(begin + 6, 20)))
    assert order.tolist() != list(range(20))


@pytest.mark.parametrize("total", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
def test_the_replicas_rows_are_the_batch_in_order(total, replicas):
    parts = [cut(total, replicas, replica) for replica in range(replicas)]
    assert [start + i for start, count in parts for i in range(count)] == list(range(total))
    counts = [count for _, count in parts]
    assert max(counts) - min(counts) <= 1
    # An idle replica copies the row where its own would begin, so that row has to be there.
    assert all(start < total for start, _ in parts)


def test_an_odd_batch_is_cut_where_the_floors_fall():
    # floor(7 r / 3): 0, 2, 4, 7.
    assert [cut(7, 3, r) for r in range(3)] == [(0, 2), (2, 2), (4, 3)]
    # floor(r / 3): 0, 0, 0, 1: the last one has the only row.
    assert [cut(1, 3, r) for r in range(3)] == [(0, 0), (0, 0), (0, 1)]
