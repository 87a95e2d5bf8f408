"""Length metrics against numbers worked out by hand."""

import math

import pytest
import torch

from dpo.evaluate.length import balanced, scalars, slope_interval, t_quantile
from dpo.metrics import PairRows


def rows(margin: list[float], chosen: list[int], rejected: list[int]) -> PairRows:
    """Rows whose rewards and log-ratios give these margins (beta 1), with these lengths."""
    zero = [0.0] * len(margin)
    columns = {"chosen_reward": margin, "rejected_reward": zero, "chosen_logp": [m - 10 for m in margin]}
    columns |= {"rejected_logp": [-10.0] * len(margin), "chosen_ref_logp": [-10.0] * len(margin)}
    columns |= {"rejected_ref_logp": [-10.0] * len(margin), "chosen_tokens": chosen, "rejected_tokens": rejected}
    return PairRows.read({"id": [str(i) for i in range(len(margin))]} | columns)


def test_longer_wins_is_the_accuracy_of_choosing_the_longer_answer():
    """Longer, equal and shorter chosen answers score 1, one half and 0: (1 + 1 + 0.5 + 0) / 4."""
    assert scalars(rows([0.0] * 4, [3, 9, 5, 1], [2, 1, 5, 4]))["length/longer_wins"] == 0.625


def test_accuracy_is_split_by_which_side_is_longer():
    """Two longer (one right), one equal (a tie), one shorter (right)."""
    values = scalars(rows([1.0, -1.0, 0.0, 2.0], [3, 9, 5, 1], [2, 1, 5, 4]))
    classes = [values[f"length/accuracy_{name}"] for name in ("chosen_longer", "equal", "chosen_shorter")]
    assert classes == [0.5, 0.5, 1.0]


def test_an_empty_length_class_is_absent():
    """Where every chosen answer is longer there is no accuracy of equal or shorter ones, nor a balanced one."""
    values = scalars(rows([1.0, 1.0], [3, 4], [1, 1]))
    absent = {"length/accuracy_equal", "length/accuracy_chosen_shorter", "length/accuracy_balanced"}
    assert not absent & values.keys() and values["length/pairs_balanced"] == 0


def test_the_balanced_subset_matches_differences_of_one_size():
    """+2 pairs with -3, +30 with -33 (a tenth), 0 stays; +9 and -100 find no partner."""
    held = balanced(torch.tensor([2.0, 9.0, 30.0, 0.0, -33.0, -100.0, -3.0]))
    assert held.tolist() == [True, False, True, True, True, False, True]


def test_the_longer_answer_wins_half_of_the_balanced_subset():
    """On random differences as many matched pairs are longer as shorter."""
    difference = torch.randint(-40, 60, (500,), generator=torch.Generator().manual_seed(0)).double()
    kept = difference[balanced(difference)]
    assert len(kept) > 100 and int(kept.sign().sum()) == 0


def test_the_slope_and_its_interval_are_those_of_least_squares():
    """x = -1, 0, 1, 2 and y = 0, 2, 1, 5: by hand slope 1.4, residual sum 4.2, error sqrt(2.1 / 5), t 4.302653."""
    slope, low, high = slope_interval(torch.tensor([-1.0, 0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 1.0, 5.0]))
    half = 4.302653 * math.sqrt(2.1 / 5)
    assert (slope, low, high) == pytest.approx((1.4, 1.4 - half, 1.4 + half), rel=1e-6)


def test_a_known_slope_lies_in_its_interval_nineteen_times_of_twenty():
    """2,000 draws of 12 points with normal noise: coverage within three standard errors of 0.95."""
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(12.0, dtype=torch.float64)
    covered = 0
    for _ in range(2000):
        noise = torch.randn(12, generator=generator, dtype=torch.float64)
        _, low, high = slope_interval(x, 0.3 * x + noise)
        covered += low <= 0.3 <= high
    assert abs(covered / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_there_is_no_slope_where_lengths_do_not_vary():
    """Equal differences say nothing about length."""
    assert slope_interval(torch.ones(5), torch.arange(5.0)) is None


@pytest.mark.parametrize("freedom, value", [(1, 12.706205), (2, 4.302653), (5, 2.570582), (30, 2.042272)])
def test_t_quantiles_are_those_of_the_tables(freedom, value):
    """97.5 % points of Student's t."""
    assert t_quantile(freedom) == pytest.approx(value, abs=1e-6)


def test_swapping_every_pair_mirrors_accuracy_and_keeps_the_slope():
    """Margin and length difference both change sign, so accuracy becomes its complement and the slope stays."""
    margin, chosen, rejected = [1.0, -0.5, 2.0, 0.25], [5, 2, 9, 3], [1, 4, 2, 6]
    values = scalars(rows(margin, chosen, rejected))
    swapped = scalars(rows([-m for m in margin], rejected, chosen))
    assert swapped["length/slope"] == pytest.approx(values["length/slope"])
    assert swapped["length/accuracy_chosen_shorter"] == 1 - values["length/accuracy_chosen_longer"]
