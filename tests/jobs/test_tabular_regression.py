"""The batches hold every patient once, and both outputs are learned as by stock Keras."""

import numpy as np
import pytest

from jobs.tabular_regression import Options, split, train
from tests.jobs import stock

pytestmark = pytest.mark.processes


def test_the_batches_hold_every_patient_once_and_those_far_gone_count_more():
    training, held_out = split(Options())
    assert [len(training), len(held_out)] == [11, 3]  # 350 and 92 patients by 32
    batches = [training[i] for i in range(11)]
    assert [len(x) for x, _, _ in batches] == [32] * 10 + [30]
    for _, y, weights in batches:
        np.testing.assert_array_equal(weights["progression"], np.where(y["progression"][:, 0] > 0, 1.5, 1))
        assert (weights["glucose"] == 1).all()


def test_both_outputs_are_learned_as_by_stock_keras(one, tmp_path):
    options, fit = {"epochs": 8}, {"shuffle": False}
    (keras_s,) = one.call(stock.by_stock, train, str(tmp_path / "stock"), options, fit)
    (ours,) = one.call(stock.by_service, train, str(tmp_path / "ours"), options, fit)
    mine, expected = ours["returned"], keras_s["returned"]
    assert mine.keys() == expected.keys()
    # Stock Keras weighs an output's loss by batches, where ours weighs it by rows: the last batch has 30 for 32.
    for name, values in mine.items():
        loose = name.endswith(("progression_loss", "glucose_loss"))
        np.testing.assert_allclose(values, expected[name], rtol=0.02 if loose else 1e-4, atol=1e-5, err_msg=name)
    assert stock.distance(ours, keras_s) < 1e-5
    r2 = [mine[f"val_{output}_r2_score"][-1] for output in ("progression", "glucose")]
    print(f"\nR2 of patients held out: progression {r2[0]:.3f}, glucose {r2[1]:.3f}")
    assert r2[0] > 0.25 and r2[1] > 0.15  # a ridge regression has 0.33 and 0.20
