"""DPO, its label-smoothed form and IPO against numbers and derivatives worked out by hand.

Notation as in dpo/losses/base.py: c, r summed log-ratios, d = c - r, z = beta d, S the logistic function.
"""

import math

import pytest
import torch

from dpo.errors import UsageError
from dpo.logps import PairLogps
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid

DPO = Sigmoid(label_smoothing=0.0)
LOSSES = pytest.mark.parametrize("loss", [DPO, Sigmoid(label_smoothing=0.2), Ipo()], ids=["dpo", "cdpo", "ipo"])


def logps(chosen, rejected, n_chosen=None, n_rejected=None, grad=False):
    """Sums and lengths of B pairs (one token each unless said otherwise)."""
    sums = [torch.tensor(side, dtype=torch.float64, requires_grad=grad) for side in (chosen, rejected)]
    lengths = [torch.tensor(n or [1] * len(chosen)) for n in (n_chosen, n_rejected)]
    return PairLogps(*sums, *lengths)


def evaluate(loss, c, r, beta, n_chosen=None, n_rejected=None):
    """(loss, d loss / d chosen log-prob, d loss / d rejected log-prob) at log-ratios c and r of one pair."""
    policy = logps([c - 7.0], [r - 5.0], n_chosen, n_rejected, grad=True)
    out = loss(policy, logps([-7.0], [-5.0], n_chosen, n_rejected), beta)
    out.loss_B.sum().backward()
    return float(out.loss_B.detach()), float(policy.chosen_B.grad), float(policy.rejected_B.grad)


def logistic(z):
    return 1 / (1 + math.exp(-z))


def test_dpo_of_a_pair_by_hand():
    """c = -10 + 12 = 2, r = -20 + 17 = -3, d = 5, beta 0.1: z = 0.5, loss = ln(1 + e^-0.5) = 0.474077."""
    out = DPO(logps([-10.0], [-20.0]), logps([-12.0], [-17.0]), 0.1)
    assert out.loss_B.tolist() == pytest.approx([0.474077], abs=1e-6)


def test_dpo_of_a_pair_that_is_the_wrong_way_round():
    """d = -5, beta 0.1: z = -0.5, loss = ln(1 + e^0.5) = 0.974077 = 0.474077 + 0.5."""
    assert evaluate(DPO, -2.0, 3.0, 0.1)[0] == pytest.approx(0.974077, abs=1e-6)


def test_dpo_acts_on_sums_not_on_token_means():
    """The same sums over answers of any length give the same loss."""
    assert evaluate(DPO, 2.0, -3.0, 0.1, [4], [9]) == evaluate(DPO, 2.0, -3.0, 0.1)


@pytest.mark.parametrize(("c", "r"), [(0.0, 0.0), (2.0, -3.0), (-4.0, 1.0)])
def test_dpo_gradient_by_hand(c, r):
    """d softplus(-z) / dz = S(z) - 1, dz/dc = beta = -dz/dr: -beta (1 - S(z)) on chosen, its opposite on rejected."""
    _, chosen, rejected = evaluate(DPO, c, r, 0.3)
    expected = -0.3 * (1 - logistic(0.3 * (c - r)))
    assert chosen == pytest.approx(expected, abs=1e-12) and rejected == pytest.approx(-expected, abs=1e-12)


def test_a_dpo_step_raises_chosen_and_lowers_rejected():
    """Descending the loss moves the chosen log-prob up and the rejected one down."""
    _, chosen, rejected = evaluate(DPO, 0.0, 0.0, 0.1)
    assert chosen < 0 < rejected


def test_label_smoothing_by_hand():
    """e = 0.25, z = 0.5: 0.75 ln(1 + e^-0.5) + 0.25 ln(1 + e^0.5) = 0.355558 + 0.243519 = 0.599077."""
    assert evaluate(Sigmoid(label_smoothing=0.25), 2.0, -3.0, 0.1)[0] == pytest.approx(0.599077, abs=1e-6)


@pytest.mark.parametrize(("shift", "sign"), [(-0.01, -1), (0.01, 1)])
def test_label_smoothing_has_its_minimum_where_the_label_is_as_sure_as_said(shift, sign):
    """dL/dz = S(z) - (1 - e): zero at S(z) = 1 - e, so past it the loss pulls the margin back."""
    best = math.log(0.8 / 0.2)
    _, chosen, _ = evaluate(Sigmoid(label_smoothing=0.2), best + shift, 0.0, 1.0)
    assert chosen * sign > 0


@pytest.mark.parametrize("value", (-0.01, 0.5, 0.9, math.nan))
def test_label_smoothing_out_of_bounds_is_refused(value):
    """From a half on the labels would mean nothing or their opposite; the key is named."""
    with pytest.raises(UsageError, match=r"loss\.label_smoothing="):
        Sigmoid(label_smoothing=value)


@pytest.mark.parametrize("value", (0.0, 0.499))
def test_label_smoothing_within_bounds_is_taken(value):
    """Zero is plain DPO."""
    assert Sigmoid(label_smoothing=value).label_smoothing == value


def test_ipo_of_a_pair_by_hand():
    """c = 2 over 4 tokens, r = -3 over 6, beta 0.1: (0.5 + 0.5 - 5)^2 = 16."""
    assert evaluate(Ipo(), 2.0, -3.0, 0.1, [4], [6])[0] == pytest.approx(16.0, abs=1e-9)


def test_ipo_gradient_by_hand():
    """2 (gap - 1/(2 beta)) / n_c = 2 (1 - 5) / 4 = -2 on chosen, and +8 / 6 on rejected."""
    _, chosen, rejected = evaluate(Ipo(), 2.0, -3.0, 0.1, [4], [6])
    assert (chosen, rejected) == pytest.approx((-2.0, 8 / 6), abs=1e-9)


def test_ipo_stops_at_its_target():
    """At a mean gap of 1/(2 beta) the loss and its gradient are zero; past it the margin is pulled back."""
    assert evaluate(Ipo(), 5.0, 0.0, 0.1) == pytest.approx((0, 0, 0), abs=1e-9)
    assert evaluate(Ipo(), 6.0, 0.0, 0.1)[1] > 0


def test_ipo_says_that_it_divides_by_beta():
    """Its class facts let the config refuse beta = 0, and tables keep its token means apart from sums."""
    assert Ipo.beta_above_zero and Ipo.reduction == "mean"
    assert not Sigmoid.beta_above_zero and Sigmoid.reduction == "sum"


@LOSSES
@pytest.mark.parametrize("beta", (0.01, 0.1, 2.0))
def test_a_loss_is_at_its_start_value_where_policy_and_reference_agree(loss, beta):
    """ln 2 for DPO with any smoothing, 1/(4 beta^2) for IPO, and at_reference says so."""
    measured = evaluate(loss, 0.0, 0.0, beta, [4], [6])[0]
    expected = 1 / (4 * beta**2) if isinstance(loss, Ipo) else math.log(2)
    assert measured == pytest.approx(expected, rel=1e-12) and loss.at_reference(beta) == pytest.approx(expected)


@LOSSES
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize(("c", "r"), [(1000.0, -1000.0), (-1000.0, 1000.0), (1000.0, 1000.0), (-1000.0, -1000.0)])
def test_extreme_log_ratios_stay_finite(loss, dtype, c, r):
    """Loss, gradients and rewards at log-ratios of a thousand nats, at beta 1."""
    sums = [torch.tensor([side], dtype=dtype, requires_grad=True) for side in (c, r)]
    length = torch.tensor([1])
    zero = torch.zeros(1, dtype=dtype)
    out = loss(PairLogps(*sums, length, length), PairLogps(zero, zero, length, length), 1.0)
    out.loss_B.sum().backward()
    shown = (out.loss_B, out.chosen_reward_B, out.rejected_reward_B, sums[0].grad, sums[1].grad)
    assert all(bool(torch.isfinite(t).all()) for t in shown)


def test_a_hopeless_pair_keeps_its_full_pull():
    """At z = -2000 the loss is 2000 itself and the gradient -beta: no saturation on the side to be learnt."""
    assert evaluate(DPO, -1000.0, 1000.0, 1.0) == pytest.approx((2000.0, -1.0, 1.0))


@LOSSES
def test_rewards_are_beta_times_summed_log_ratios(loss):
    """0.1 x 2 and 0.1 x -3 whatever the loss's own reduction or the lengths."""
    out = loss(logps([-10.0], [-20.0], [4], [6]), logps([-12.0], [-17.0], [4], [6]), 0.1)
    assert (float(out.chosen_reward_B), float(out.rejected_reward_B)) == pytest.approx((0.2, -0.3))


@LOSSES
def test_rewards_are_detached(loss):
    """Only the loss has a graph."""
    out = loss(logps([-1.0], [-2.0], grad=True), logps([-1.5], [-1.0]), 0.1)
    assert out.loss_B.requires_grad
    assert not out.chosen_reward_B.requires_grad and not out.rejected_reward_B.requires_grad


@LOSSES
def test_a_batch_is_its_pairs_one_by_one(loss):
    """Per-pair results of shape (B,): no pair sees another."""
    many = loss(logps([-1.0, -9.0], [-2.0, -3.0], [1, 2], [3, 4]), logps([-2.0, -4.0], [-5.0, -1.0]), 0.5)
    for i, (a, b, c, d) in enumerate([(-1.0, -2.0, -2.0, -5.0), (-9.0, -3.0, -4.0, -1.0)]):
        one = loss(logps([a], [b], [1 + i], [3 + i]), logps([c], [d]), 0.5)
        assert many.loss_B.shape == (2,) and float(one.loss_B) == pytest.approx(float(many.loss_B[i]))


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
def test_dpo_without_beta_has_no_gradient(smoothing):
    """beta = 0: z = 0 for every pair, the loss is ln 2 and nothing moves."""
    value, chosen, rejected = evaluate(Sigmoid(label_smoothing=smoothing), 2.0, -3.0, 0.0)
    assert (value, chosen, rejected) == pytest.approx((math.log(2), 0.0, 0.0), abs=1e-12)
