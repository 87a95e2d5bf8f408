"""Calibration of implicit rewards: numbers by hand, and data made with a known temperature."""

import math

import pytest
import torch

from dpo.evaluate.calibration import (
    ece,
    equal_mass,
    equal_width,
    fitted_temperature,
    mirrored,
    reliability,
    scalars,
    table,
)
from dpo.metrics import PairRows


def rows(margin: torch.Tensor, beta: float = 1.0) -> PairRows:
    """Rows with these reward margins at this beta."""
    zero = torch.zeros_like(margin)
    columns = {"chosen_reward": margin, "rejected_reward": zero, "chosen_logp": margin / beta - 100}
    columns |= {"rejected_logp": zero - 100, "chosen_ref_logp": zero - 100, "rejected_ref_logp": zero - 100}
    return PairRows(torch.arange(len(margin)), columns)


def drawn(temperature: float, n: int = 20_000) -> torch.Tensor:
    """Margins whose label is right with probability sigmoid(margin / temperature)."""
    generator = torch.Generator().manual_seed(0)
    margin = 3 * torch.randn(n, generator=generator, dtype=torch.float64)
    right = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(margin / temperature)
    return torch.where(right, margin, -margin)


def test_ece_by_hand():
    """Four points in two bins: 2/4 |0.3 - 0.5| + 2/4 |0.8 - 1| = 0.2."""
    p, outcome = torch.tensor([0.2, 0.4, 0.7, 0.9]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert ece(p, outcome, equal_width(2)) == pytest.approx(0.2)


def test_equal_mass_bins_hold_equally_many_points():
    """100 different probabilities make 10 bins of 10."""
    p = torch.linspace(0.01, 0.3, 100, dtype=torch.float64)
    assert [row["n"] for row in reliability(p, torch.zeros_like(p), equal_mass(p, 10))] == [10.0] * 10


def test_equal_probabilities_share_a_bin():
    """A policy that is its reference is calibrated: every p is one half, and so is the mean outcome."""
    p, outcome = mirrored(torch.zeros(8, dtype=torch.float64))
    assert ece(p, outcome, equal_mass(p, 10)) == 0


def test_every_point_is_in_one_bin_of_the_table():
    """The counts add up to both copies of every pair, the ends 0 and 1 included."""
    p, outcome = mirrored(torch.tensor([-800.0, -1.0, 0.0, 2.0, 800.0], dtype=torch.float64))
    assert sum(row["n"] for row in reliability(p, outcome, equal_width(10))) == 10


def test_brier_and_nll_by_hand():
    """Margins ln 3 and -ln 3 are p = 3/4 and 1/4: Brier (1/16 + 9/16) / 2, NLL -(ln 3/4 + ln 1/4) / 2."""
    values = scalars(rows(torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64)), 1.0)
    assert values["calibration/brier"] == pytest.approx(5 / 16)
    assert values["calibration/nll"] == pytest.approx(-math.log(3 / 16) / 2)


def test_fitted_temperature_by_hand():
    """Three right and one wrong at |m| = 2: best at sigmoid(2 / T) = 3/4, so T = 2 / ln 3."""
    assert fitted_temperature(torch.tensor([2.0, 2.0, 2.0, -2.0], dtype=torch.float64)) == pytest.approx(
        2 / math.log(3)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    """20,000 labels drawn at a temperature give it back to 5 %."""
    assert fitted_temperature(drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_calibrated_beta_is_beta_over_the_temperature():
    """Margins at beta 0.4 that are three times too sure would have been calibrated at 0.4 / 3."""
    assert scalars(rows(drawn(3.0), 0.4), 0.4)["calibration/beta"] == pytest.approx(0.4 / 3, rel=0.05)


def test_calibrated_margins_have_nearly_no_error_and_oversure_ones_have():
    """Labels drawn at temperature 1 against labels drawn at 3."""
    calibrated, oversure = (scalars(rows(drawn(t)), 1.0) for t in (1.0, 3.0))
    assert calibrated["calibration/ece"] < 0.01 < 0.1 < oversure["calibration/ece"]
    assert calibrated["calibration/ece_mass"] < 0.01 < 0.1 < oversure["calibration/ece_mass"]


@pytest.mark.parametrize("margin", [[1.0, 2.0], [-1.0, 0.5], [0.0, 0.0]])
def test_no_temperature_where_none_fits(margin):
    """All right, right less than wrong, or nothing learnt: there is no best T, and no key claims one."""
    assert "calibration/temperature" not in scalars(rows(torch.tensor(margin, dtype=torch.float64)), 1.0)


def test_rounding_is_not_confidence():
    """Margins below the tie count as 0: calibrated exactly, however their signs fall."""
    noise = torch.full((6,), 1e-7, dtype=torch.float64)
    assert scalars(rows(noise), 1.0)["calibration/ece_mass"] == 0


def test_the_table_of_a_run_counts_each_pair_twice_and_mirrors():
    """p = 3/4 (right) and p = 1/4: one bin each for 1/4 and 3/4, with outcomes 1/2."""
    made = table(rows(torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64)))
    assert [(round(row["p"], 9), row["n"], row["outcome"]) for row in made] == [(0.25, 2, 0.5), (0.75, 2, 0.5)]
