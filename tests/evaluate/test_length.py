"""Length metrics against numbers worked out by hand."""

import pytest
import torch

from dpo.evaluate.length import balanced, scalars, slope_interval
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


def test_the_slope_is_that_of_least_squares_and_its_interval_counts_prompts():
    """x = -1, 0, 1, 2 and y = 0, 2, 1, 5: by hand slope 1.4; pairs of one prompt are no independent points."""
    x, y = [-1.0, 0.0, 1.0, 2.0] * 5, [0.0, 2.0, 1.0, 5.0] * 5
    slope, low, high = slope_interval(torch.tensor(x), torch.tensor(y))
    assert slope == pytest.approx(1.4) and low < 1.4 < high
    _, few, many = slope_interval(torch.tensor(x), torch.tensor(y), [str(i % 4) for i in range(20)])
    assert many - few > 2 * (high - low)


def test_there_is_no_slope_where_lengths_do_not_vary():
    """Equal differences say nothing about length."""
    assert slope_interval(torch.ones(5), torch.arange(5.0)) is None


def test_swapping_every_pair_mirrors_accuracy_and_keeps_the_slope():
    """Margin and length difference both change sign, so accuracy becomes its complement and the slope stays."""
    margin, chosen, rejected = [1.0, -0.5, 2.0, 0.25], [5, 2, 9, 3], [1, 4, 2, 6]
    values = scalars(rows(margin, chosen, rejected))
    swapped = scalars(rows([-m for m in margin], rejected, chosen))
    assert swapped["length/slope"] == pytest.approx(values["length/slope"])
    assert swapped["length/accuracy_chosen_shorter"] == 1 - values["length/accuracy_chosen_longer"]
