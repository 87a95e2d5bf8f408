"""Every loss that TRL has, against TRL's own trainers: needs TRL, which only this test and `make parity` use."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed; the comparison needs it")

from tests.parity.cases import CASES, CURVES
from tests.parity.compare import curve_difference, differences

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_and_rewards_agree_with_trl(case):
    """Loss and reward metrics of the same models and pairs, policy != reference, to 1e-4 relative."""
    for name, (theirs, ours, difference) in differences(case).items():
        assert difference <= 1e-4, f"{name}: TRL {theirs}, ours {ours}"


@pytest.mark.parametrize("case", CURVES, ids=lambda case: case.name)
def test_twenty_training_steps_agree_with_trl(case):
    """The loss before each of 20 full-batch steps, to 1e-3 relative; ours in micro-batches."""
    theirs, ours, difference = curve_difference(case)
    assert len(theirs) == len(ours) == 20 and difference <= 1e-3
    assert theirs[-1] < theirs[0]
