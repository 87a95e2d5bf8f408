"""Two rewards on the same pairs: agreement and rank correlation by hand."""

import math

import pytest
import torch

from dpo.evaluate.agreement import compare, ranks, spearman
from dpo.metrics import PairRows


def rows(*margin: float) -> PairRows:
    """Rows of a reward model with these margins."""
    chosen = torch.tensor(margin, dtype=torch.float64)
    return PairRows(torch.arange(len(margin)), {"chosen_reward": chosen, "rejected_reward": torch.zeros_like(chosen)})


def test_agreement_is_the_share_of_equal_preferences():
    """Same side, opposite sides, one undecided, both undecided: (1 + 0 + 1/2 + 1) / 4."""
    values = compare(rows(1, 2, 0, 0), rows(3, -1, 1, 0), (1e-6, 1e-6))
    assert values["agreement"] == 2.5 / 4


def test_each_side_has_its_own_accuracy_and_calibration():
    """Margins of ln 3, right and wrong, against certainty that is always wrong."""
    values = compare(rows(math.log(3), -math.log(3)), rows(-2, -2), (1e-6, 1e-6))
    assert (values["implicit/accuracy"], values["explicit/accuracy"]) == (0.5, 0.0)
    assert values["implicit/calibration/nll"] == pytest.approx(-math.log(3 / 16) / 2)
    assert values["explicit/calibration/nll"] == pytest.approx(math.log(1 + math.exp(2)))


def test_rank_correlation_by_hand():
    """Ranks 0 1 2 3 against 1 0 2 3: 1 - 6 (1 + 1) / (4 x 15) = 0.8."""
    assert spearman(torch.tensor([1.0, 2, 30, 40]), torch.tensor([6.0, 5, 7, 800])) == pytest.approx(0.8)


def test_rank_correlation_ignores_the_scale_of_margins():
    """Any growing function of one side leaves it at 1: beta does not matter."""
    margin = torch.tensor([0.3, -2.0, 1.0, 5.0], dtype=torch.float64)
    assert spearman(margin, (10 * margin).sigmoid()) == pytest.approx(1)


def test_equal_values_share_their_mean_rank():
    """The two middle ones of four are both 1.5."""
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 9.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_there_is_no_rank_correlation_with_a_constant():
    """An untrained model orders nothing."""
    assert "spearman" not in compare(rows(1, 2), rows(0, 0), (1e-6, 1e-6))
