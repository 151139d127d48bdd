"""An epoch is begun anywhere at the price of what is left of it."""

import numpy as np

from service.data.sources import Arrays
from service.exact.group import Group
from service.training.plan import ArrayPlan


def test_beginning_inside_an_epoch_reads_no_row_of_the_batches_before():
    class Counted(Arrays):
        read = 0

        def rows(self, places):
            found = super().rows(places)
            self.read += len(found[0])
            return found

    source = Counted(np.arange(1000.0))
    plan = ArrayPlan(source, 10, seed=1, shuffle=True)
    whole = [batch.rows[0] for batch in plan.batches(Group(), epoch=3)]
    assert source.read == 1000
    source.read = 0
    rest = [batch.rows[0] for batch in plan.batches(Group(), epoch=3, first=90)]
    assert source.read == 100
    np.testing.assert_array_equal(rest, whole[90:])
