"""Each loss against numbers worked out by hand.

Notation as in dpo/losses/base.py: c, r summed log-ratios, d = c - r, z = beta d, S the logistic function,
L(x) = ln(1 + e^-x). The pair that most cases use: c = 2, r = -3, beta = 0.1, so z = 0.5, S(0.2) = 0.549834,
S(0.3) = 0.574443, S(0.5) = 0.622459, L(0.5) = 0.474077, L(-0.5) = 0.974077, L(0.2) = 0.598139,
L(-0.2) = 0.798139, L(0.3) = 0.554355, L(-0.3) = 0.854355.
"""

import math

import pytest
import torch

from dpo.logps import PairLogps
from dpo.losses.aot import Aot, AotUnpaired
from dpo.losses.apo import ApoDown, ApoZero
from dpo.losses.bco import BcoPair
from dpo.losses.cpo import Cpo
from dpo.losses.discopop import Discopop
from dpo.losses.dpop import Dpop
from dpo.losses.exo import ExoPair
from dpo.losses.hinge import Hinge
from dpo.losses.ipo import IpoSum
from dpo.losses.kto import KtoPair
from dpo.losses.nca import NcaPair
from dpo.losses.orpo import Orpo
from dpo.losses.rdpo import Rdpo
from dpo.losses.robust import Robust
from dpo.losses.sft import Sft
from dpo.losses.sigmoid import Sigmoid, SigmoidNorm
from dpo.losses.simpo import Simpo
from dpo.losses.sppo import SppoHard
from dpo.losses.tdpo import Tdpo
from tests.losses.every import logps


def pair(loss, c=2.0, r=-3.0, beta=0.1, n_c=4, n_r=6, policy=None, reference=None):
    """(loss, gradient on chosen, gradient on rejected) of one pair at log-ratios c, r; optional fields by side."""
    ours = logps([c - 7.0], [r - 5.0], [n_c], [n_r], grad=True, **(policy or {}))
    out = loss(ours, logps([-7.0], [-5.0], [n_c], [n_r], **(reference or {})), beta)
    out.loss_B.sum().backward()
    sides = (ours.chosen_B, ours.rejected_B)
    return float(out.loss_B.detach()), *(0.0 if s.grad is None else float(s.grad) for s in sides)


def own(loss, lc, lr, beta=1.0, n_c=2, n_r=4):
    """(loss, gradient on chosen, gradient on rejected) at the policy's own log-probs; the reference is NaN."""
    ours = logps([lc], [lr], [n_c], [n_r], grad=True)
    out = loss(ours, logps([math.nan], [math.nan], [n_c], [n_r]), beta)
    out.loss_B.sum().backward()
    sides = (ours.chosen_B, ours.rejected_B)
    return float(out.loss_B.detach()), *(0.0 if s.grad is None else float(s.grad) for s in sides)


HAND = {
    # (1-e) L(z) - e L(-z) over 1 - 2e, e = 0.1: (0.9 * 0.474077 - 0.1 * 0.974077) / 0.8
    "robust": (Robust(label_smoothing=0.1), 0.411577),
    # 1 - 0.5
    "hinge": (Hinge(), 0.5),
    # (5 - 5)^2 = 0 at the target d = 1/(2 beta) = 5
    "ipo_sum": (IpoSum(), 0.0),
    # gap = 2/4 + 3/6 = 1, L(0.1) = ln(1 + e^-0.1)
    "sigmoid_norm": (SigmoidNorm(), 0.644397),
    # q = 0.622459: q (ln q - ln 0.9) + (1 - q)(ln(1 - q) - ln 0.1)
    # = 0.622459 (-0.474077 + 0.105361) + 0.377541 (-0.974077 + 2.302585) = -0.229511 + 0.501566
    "exo_pair": (ExoPair(label_smoothing=0.1), 0.272055),
    # L(0.2) + 0.5 L(-0.2) + 0.5 L(0.3) = 0.598139 + 0.399069 + 0.277178
    "nca_pair": (NcaPair(), 1.274386),
    # L(0.2) + L(0.3)
    "bco_pair": (BcoPair(running_mean=False), 1.152494),
    # (2 - 5)^2 + (-3 + 5)^2
    "sppo_hard": (SppoHard(), 13.0),
    # 1 - S(0.2) + S(-0.3) = 0.450166 + 0.425557
    "apo_zero": (ApoZero(), 0.875723),
    # S(0.2) + 1 - S(0.5) = 0.549834 + 0.377541
    "apo_down": (ApoDown(), 0.927375),
    # m = S(0.5 / 0.5) = 0.731059: 0.268941 * 0.474077 + 0.731059 * e^-0.5 = 0.127499 + 0.443410
    "discopop": (Discopop(tau=0.5), 0.570908),
    # c > 0: no penalty, DPO
    "dpop": (Dpop(lambda_=5.0), 0.474077),
    # alpha (n_c - n_r) = 0.25 * -2 = -0.5: L(0.5 - 0.5) = ln 2
    "rdpo": (Rdpo(alpha=0.25), 0.693147),
}


@pytest.mark.parametrize("name", HAND)
def test_a_pair_by_hand(name):
    """c = 2 over 4 tokens, r = -3 over 6, beta 0.1, as worked out beside each number."""
    loss, expected = HAND[name]
    assert pair(loss)[0] == pytest.approx(expected, abs=2e-6)


def test_robust_is_unbiased_under_flips():
    """(1-e) robust(z) + e robust(-z) is the DPO loss: what its name claims."""
    e, robust = 0.3, Robust(label_smoothing=0.3)
    mean = (1 - e) * pair(robust)[0] + e * pair(robust, c=-3.0, r=2.0)[0]
    assert mean == pytest.approx(pair(Sigmoid())[0], abs=1e-9)


def test_robust_is_unbounded_below():
    """At z = -1000 dL/dz = ((1-e)(-1)) / (1-2e), at z = +1000 the loss is -e z / (1 - 2e): ever lower."""
    assert pair(Robust(label_smoothing=0.25), 1000.0, 0.0, 1.0)[0] == pytest.approx(-0.25 * 1000 / 0.5)


def test_hinge_leaves_a_wide_pair_alone():
    """Past z = 1 neither loss nor gradient."""
    assert pair(Hinge(), 11.0, 0.0) == pytest.approx((0.0, 0.0, 0.0))


def test_the_other_form_of_ipo_is_a_multiple_of_the_summed_one():
    """(b d - 1)^2 = b^2 (d - 1/b)^2: b^2 times ipo_sum at beta = b / 2; d = 5, b = 0.1: (0.5 - 1)^2 = 0.25."""
    assert 0.1**2 * pair(IpoSum(), beta=0.05)[0] == pytest.approx(0.25)


def test_nca_holds_up_the_chosen_answer():
    """At the reference the gradient on c is beta (-1/2 + 1/4) < 0 and on r beta / 4 > 0: not equal and opposite."""
    assert pair(NcaPair(), 0.0, 0.0)[1:] == pytest.approx((-0.025, 0.025))


def test_apo_down_has_no_pull_on_the_chosen_answer_at_the_reference():
    """d/dc [S(beta c) - S(beta (c - r))] = beta/4 - beta/4 = 0 there; on r it is +beta/4."""
    assert pair(ApoDown(), 0.0, 0.0)[1:] == pytest.approx((0.0, 0.025), abs=1e-12)


def test_bco_shifts_by_the_running_mean():
    """s = 0.5: L(0.2 - 0.5) + L(-(-0.3 - 0.5)) = L(-0.3) + L(0.8) = 0.854355 + 0.371101."""
    shifted = pair(BcoPair(running_mean=True), policy={"reward_mean": 0.5})[0]
    assert shifted == pytest.approx(1.225456, abs=2e-6)


def test_discopop_lowers_the_margin_near_zero():
    """d/dz at 0, tau = 0.05: 1/(4 tau) (1 - ln 2) - 1/4 - 1/2 = 1.534 - 0.75 > 0: descent goes down."""
    slope = (1 - math.log(2)) / (4 * 0.05) - 0.75
    assert pair(Discopop(tau=0.05), 0.0, 0.0, 1.0)[1] == pytest.approx(slope) and slope > 0


def test_discopop_survives_a_hopeless_pair():
    """z = -200: m exp(-z) = exp(-4000 + 200) = 0, and the loss is L(z) = 200."""
    assert pair(Discopop(tau=0.05), -200.0, 0.0, 1.0)[0] == pytest.approx(200.0)


def test_dpop_charges_a_fallen_chosen_answer():
    """c = -2, r = -3: d = 1, minus lambda 5 * 2: L(0.1 (1 - 10)) = ln(1 + e^0.9) = 1.241154."""
    assert pair(Dpop(lambda_=5.0), -2.0, -3.0)[0] == pytest.approx(1.241154, abs=2e-6)


def test_rdpo_pulls_less_where_the_chosen_answer_is_longer():
    """At the reference |gradient| is beta S(-alpha (n_c - n_r)): below beta/2 where it is longer."""
    longer, shorter = (pair(Rdpo(alpha=0.1), 0.0, 0.0, n_c=a, n_r=b)[1] for a, b in ((9, 4), (4, 9)))
    assert longer == pytest.approx(-0.1 / (1 + math.exp(0.5))) and abs(longer) < 0.05 < abs(shorter)


def test_simpo_by_hand():
    """-1 over 2 tokens, -8 over 4: gap 1.5, beta 2, gamma 1: L(3 - 1) = ln(1 + e^-2) = 0.126928; no reference."""
    assert own(Simpo(gamma=1.0), -1.0, -8.0, 2.0)[0] == pytest.approx(0.126928, abs=1e-6)


def test_simpo_logs_its_own_score():
    """Rewards are beta times mean log-probs: 2 * -1/2 and 2 * -8/4."""
    out = Simpo(gamma=1.0)(logps([-1.0], [-8.0], [2], [4]), logps([math.nan], [math.nan]), 2.0)
    assert (float(out.chosen_reward_B), float(out.rejected_reward_B)) == (-1.0, -4.0) and out.own_score


def test_cpo_by_hand():
    """lc = -1 over 2, lr = -3: L(2) + NLL = 0.126928 + 1/2."""
    assert own(Cpo(sft_weight=1.0), -1.0, -3.0)[0] == pytest.approx(0.626928, abs=1e-6)


def test_orpo_by_hand():
    """Mean log-probs ln 0.5 and ln 0.2: odds 1 and 1/4, log ratio ln 4, so L = ln(1 + 1/4) = 0.223144; NLL = ln 2.

    lambda 0.5: 0.693147 + 0.111572.
    """
    assert own(Orpo(lambda_=0.5), 2 * math.log(0.5), 4 * math.log(0.2))[0] == pytest.approx(0.804719, abs=1e-6)


def test_orpo_at_certainty_is_finite():
    """A chosen answer of probability 1 has infinite odds; loss and gradients stay numbers."""
    assert all(math.isfinite(x) for x in own(Orpo(lambda_=0.5), 0.0, -3.0))


def test_sft_is_the_mean_over_all_tokens_of_the_batch():
    """-4 over 2 tokens and -1 over 8: 5 / 10 = 0.5 (a mean of means would be 1.0625), and nothing on rejected."""
    ours = logps([-4.0, -1.0], [-2.0, -2.0], [2, 8], [1, 1], grad=True)
    out = Sft()(ours, logps([-4.0, -2.0], [-1.0, -1.0]), 1.0)
    out.loss_B.mean().backward()
    assert float(out.loss_B.mean()) == pytest.approx(0.5) and ours.rejected_B.grad is None
    assert ours.chosen_B.grad.tolist() == pytest.approx([-0.1, -0.1])
    assert out.chosen_reward_B.tolist() == [0.0, 1.0] and out.rejected_reward_B.tolist() == [-1.0, -1.0]


def test_tdpo_by_hand():
    """D_r - D_c = 3 - 1 = 2, alpha 0.5: z - 0.5 * 0.1 * 2 = 0.4, L(0.4) = 0.513015."""
    kl = {"chosen_kl_B": [1.0], "rejected_kl_B": [3.0]}
    assert pair(Tdpo(alpha=0.5), policy=kl)[0] == pytest.approx(0.513015, abs=1e-6)


def test_tdpo_stops_the_gradient_of_the_chosen_kl():
    """Only the rejected side's sequential KL is learnt from."""
    ours = logps([-5.0], [-8.0], chosen_kl_B=[1.0], rejected_kl_B=[3.0])
    ours.chosen_kl_B.requires_grad_()
    ours.rejected_kl_B.requires_grad_()
    Tdpo(alpha=0.5)(ours, logps([-7.0], [-5.0]), 0.1).loss_B.sum().backward()
    assert ours.chosen_kl_B.grad is None and float(ours.rejected_kl_B.grad) > 0


def test_kto_by_hand():
    """Mismatches 0.5 and 2.5 above their reference: KL = 1.5; c = 2, r = -3, beta 1.

    (1 - S(0.5) + 1 - S(4.5)) / 2 = (0.377541 + 0.010987) / 2 = 0.194264.
    """
    ours = logps([2.0, 2.0], [-3.0, -3.0], mismatched_B=[0.5, 2.5])
    out = KtoPair()(ours, logps([0.0, 0.0], [0.0, 0.0], mismatched_B=[0.0, 0.0]), 1.0)
    assert out.loss_B.tolist() == pytest.approx([0.194264] * 2, abs=1e-6)


def test_the_kl_of_kto_is_never_negative():
    """Mismatches below the reference count as KL 0: (1 - S(2) + 1 - S(3)) / 2 = 0.083315."""
    ours = logps([2.0], [-3.0], mismatched_B=[-9.0])
    assert float(KtoPair()(ours, logps([0.0], [0.0], mismatched_B=[0.0]), 1.0).loss_B) == pytest.approx(
        0.083315, abs=1e-6
    )


def test_aot_compares_quantiles():
    """Policy margins 3, 1 against reference margins 0, 2: sorted (1, 3) - (0, 2) = (1, 1), so L(1) = 0.313262 twice.

    Pair by pair, as DPO sees it, d = 3 and -1.
    """
    ours, theirs = logps([3.0, 1.0], [0.0, 0.0]), logps([0.0, 2.0], [0.0, 0.0])
    assert Aot()(ours, theirs, 1.0).loss_B.tolist() == pytest.approx([0.313262] * 2, abs=1e-6)


def test_the_loss_of_aot_stands_at_the_pair_of_its_quantile():
    """Margins 5, 1 against 0, 0: u = 1 for the second pair and 5 for the first."""
    out = Aot()(logps([5.0, 1.0], [0.0, 0.0]), logps([0.0, 0.0], [0.0, 0.0]), 1.0)
    assert out.loss_B.tolist() == pytest.approx([math.log1p(math.exp(-5)), math.log1p(math.exp(-1))])


def test_unpaired_aot_sorts_each_side_alone():
    """c = (4, 1), r = (2, 0): sorted (1, 4) - (0, 2) = (1, 2); first pair has c = 4, so L(2), the second L(1)."""
    out = AotUnpaired()(logps([4.0, 1.0], [2.0, 0.0]), logps([0.0, 0.0], [0.0, 0.0]), 1.0)
    assert out.loss_B.tolist() == pytest.approx([math.log1p(math.exp(-2)), math.log1p(math.exp(-1))])


def test_exo_tends_to_its_limit_at_the_start():
    """-ln 2 - 0.5 ln(e (1 - e)) at e = 0.1: 0.510826, and half a slope of beta."""
    value, _, _ = pair(ExoPair(label_smoothing=0.1), 0.0, 0.0)
    assert value == pytest.approx(0.510826, abs=1e-6)


def test_float32_is_enough():
    """The same numbers in float32 to its rounding: nothing here cancels."""
    for loss, _ in HAND.values():
        values = []
        for dtype in (torch.float32, torch.float64):
            sides = [torch.tensor([x], dtype=dtype) for x in (-5.0, -8.0, -7.0, -5.0)]
            lengths = torch.tensor([4]), torch.tensor([6])
            values.append(float(loss(PairLogps(*sides[:2], *lengths), PairLogps(*sides[2:], *lengths), 0.1).loss_B))
        assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-5)
