"""What the modifiers do to a loss, by hand, and where they are refused.

Notation as in dpo/losses/base.py; the pair: c = 2, r = -3, beta = 0.1, z = 0.5, L(0.5) = 0.474077.
"""

import math

import pytest
import torch

from dpo.errors import UsageError
from dpo.losses.base import EXPONENT, MARGIN, PAIRWISE, Loss
from dpo.losses.hinge import Hinge
from dpo.losses.ipo import Ipo, IpoSum
from dpo.losses.sft import Sft
from dpo.losses.sigmoid import Sigmoid
from dpo.losses.simpo import Simpo
from dpo.losses.sum import Component, Sum
from tests.losses.every import NAMES, built, full, logps

REFUSED = {"f_divergence": "js", "ld_alpha": 0.5, "wpo": True, "sft_weight": 0.5, "reference_free": True}


def value(loss, c=2.0, r=-3.0, beta=0.1, **more):
    """The loss of one pair of two-token answers at log-ratios c and r."""
    ours = logps([c - 7.0], [r - 5.0], [2], [2], **more)
    return float(loss(ours, logps([-7.0], [-5.0], [2], [2]), beta).loss_B)


@pytest.mark.parametrize(
    ("settings", "score"),
    [
        ({"f_divergence": "forward_kl"}, lambda x: 1 - math.exp(-x)),
        ({"f_divergence": "js"}, lambda x: math.log(2) - math.log1p(math.exp(-x))),
        ({"f_divergence": "alpha", "f_alpha": 0.5}, lambda x: (math.exp(-0.5 * x) - 1) / -0.5),
        ({"f_divergence": "alpha", "f_alpha": 3.0}, lambda x: (math.exp(2 * x) - 1) / 2),
    ],
)
def test_an_f_divergence_acts_on_each_log_ratio(settings, score):
    """hinge: 1 - 0.1 (s(c) - s(r)) with s = f' up to a constant: c = 0.5, r = -0.25."""
    expected = 1 - 0.1 * (score(0.5) - score(-0.25))
    assert value(Hinge(**settings), 0.5, -0.25) == pytest.approx(expected, abs=1e-9)


def test_the_alpha_divergence_tends_to_reverse_kl():
    """At an order next to 1 the score is the log-ratio itself."""
    near = Hinge(f_divergence="alpha", f_alpha=1 + 1e-7)
    assert value(near, 0.5, -0.25) == pytest.approx(value(Hinge(), 0.5, -0.25), abs=1e-6)


def test_every_divergence_starts_where_the_loss_does():
    """f' is 0 at equal models, so that at_reference holds whatever the divergence."""
    for settings in ({"f_divergence": "js"}, {"f_divergence": "forward_kl"}, {"f_divergence": "alpha", "f_alpha": 0.3}):
        assert value(Sigmoid(**settings), 0.0, 0.0) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("kind", [Sigmoid, Ipo, IpoSum, Hinge])
@pytest.mark.parametrize("settings", [{"f_divergence": "forward_kl"}, {"f_divergence": "alpha", "f_alpha": 2.0}])
def test_divergences_of_a_thousand_nats_stay_finite(kind, settings):
    """Exponents are clamped, and their square still fits float32."""
    policy, reference = full([1000.0, -1000.0], [-1000.0, 1000.0], torch.float32)
    out = kind(**settings)(policy, reference, 0.1)
    out.loss_B.sum().backward()
    assert all(bool(torch.isfinite(t).all()) for t in (out.loss_B, policy.chosen_B.grad, policy.rejected_B.grad))
    assert math.exp(EXPONENT) ** 2 < torch.finfo(torch.float32).max


def test_ld_weighs_the_tail_on_both_models():
    """c = 2 with 1.5 of it shared, r = -3 all shared; alpha 0.4: c' = 1.5 + 0.4 * 0.5 = 1.7, z = 0.47."""
    ours = logps([-5.0], [-8.0], [4], [2], chosen_shared_B=[-2.5], rejected_shared_B=[-8.0])
    theirs = logps([-7.0], [-5.0], [4], [2], chosen_shared_B=[-4.0], rejected_shared_B=[-5.0])
    out = Sigmoid(ld_alpha=0.4)(ours, theirs, 0.1)
    assert float(out.loss_B) == pytest.approx(math.log1p(math.exp(-0.47)), abs=1e-9)
    assert float(out.chosen_reward_B) == pytest.approx(0.2), "rewards stay the whole sums"


def test_wpo_weighs_the_pair_without_gradient():
    """Alignments -0.2 and -0.4: weight e^-0.6, and the gradient is the weighted one."""
    ours = logps([-5.0], [-8.0], grad=True, chosen_alignment_B=[-0.2], rejected_alignment_B=[-0.4])
    plain = logps([-5.0], [-8.0], grad=True)
    weighted_B = Sigmoid(wpo=True)(ours, logps([-7.0], [-5.0]), 0.1).loss_B
    plain_B = Sigmoid()(plain, logps([-7.0], [-5.0]), 0.1).loss_B
    (weighted_B + plain_B).sum().backward()
    assert float(weighted_B / plain_B) == pytest.approx(math.exp(-0.6))
    assert float(ours.chosen_B.grad / plain.chosen_B.grad) == pytest.approx(math.exp(-0.6))


def test_the_sft_term_is_a_token_mean_over_the_batch():
    """c: log-probs -5 over 2 tokens; weight 0.5: L(0.5) + 0.5 * 2.5; and with 5 tokens per answer elsewhere 0.5 * 1."""
    assert value(Sigmoid(sft_weight=0.5)) == pytest.approx(0.474077 + 1.25, abs=1e-6)
    assert value(Sigmoid(sft_weight=0.5), mean_chosen_len=5.0) == pytest.approx(0.474077 + 0.5, abs=1e-6)


def test_without_a_reference_only_the_policy_counts():
    """lc = -5, lr = -8: z = 0.3, L = 0.554355, rewards -0.5 and -0.8, whatever the reference."""
    out = Sigmoid(reference_free=True)(logps([-5.0], [-8.0]), logps([math.nan], [math.nan]), 0.1)
    assert float(out.loss_B) == pytest.approx(0.554355, abs=1e-6) and out.own_score
    assert (float(out.chosen_reward_B), float(out.rejected_reward_B)) == pytest.approx((-0.5, -0.8))
    assert "reference" not in Sigmoid(reference_free=True).needs


def test_modifiers_say_what_they_need():
    """Only what an instance uses is asked for, so that nobody pays for the rest."""
    assert Sigmoid().needs == {"reference"}
    assert Sigmoid(ld_alpha=0.5, wpo=True, sft_weight=1.0).needs == {"reference", "shared", "wpo", "token_mean"}


def test_start_values_of_modified_losses():
    """The SFT term adds the reference's own NLL; WPO's weights and a missing reference leave no constant."""
    reference = logps([-4.0, -6.0], [-1.0, -1.0], [2, 3], [1, 1])
    assert Sigmoid(sft_weight=0.5).at_reference(0.1, reference) == pytest.approx(math.log(2) + 0.5 * 10 / 5)
    assert Sigmoid(sft_weight=0.5).at_reference(0.1) is None
    assert Sigmoid(wpo=True).at_reference(0.1) is None and Sigmoid(reference_free=True).at_reference(0.1) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_modifier_that_is_not_defined_is_refused_by_name(name):
    """Every loss takes what its class says and refuses the rest in one line that names the key and the loss."""
    loss, _ = built(name)
    for key, setting in REFUSED.items():
        if key not in loss.takes:
            with pytest.raises(UsageError, match=rf"loss\.{key}=.*{type(loss).__name__}") as caught:
                built(name, f"loss.{key}={str(setting).lower()}")
            assert "\n" not in str(caught.value)


def test_batch_level_losses_take_no_weights():
    """Their pairs are coupled, so that a weight or a cut of one pair has no meaning."""
    for name in NAMES:
        loss, _ = built(name)
        assert not (loss.whole_batch and loss.takes & (MARGIN | PAIRWISE))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"label_smoothing": 0.5}, "loss.label_smoothing=0.5"),
        ({"ld_alpha": 1.5}, "loss.ld_alpha=1.5"),
        ({"sft_weight": -1.0}, "loss.sft_weight=-1.0"),
        ({"f_alpha": 0.5}, "loss.f_alpha=0.5"),
        ({"f_divergence": "alpha"}, "loss.f_alpha=null"),
        ({"f_divergence": "alpha", "f_alpha": 1.0}, "loss.f_alpha=1.0"),
        ({"f_divergence": "js", "reference_free": True}, "loss.reference_free=true"),
    ],
)
def test_modifiers_out_of_range_are_refused(settings, said):
    """One line: the rule, the value, the key."""
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        Sigmoid(**settings)


def test_a_sum_adds_its_weighted_terms():
    """0.8 L(0.5) + 2 max(0, 1 - 0.5), rewards those of DPO, start 0.8 ln 2 + 2."""
    both = Sum(components=[Component(0.8, Sigmoid()), Component(2.0, Hinge())])
    assert value(both) == pytest.approx(0.8 * 0.474077 + 1.0, abs=1e-6)
    assert both.at_reference(0.1) == pytest.approx(0.8 * math.log(2) + 2)


def test_a_sum_has_the_facts_of_its_terms():
    """Needs are united; it divides by beta, couples pairs and has a beta where one of them does."""
    mixed = Sum(components=[Component(1.0, Ipo()), Component(1.0, built("aot")[0]), Component(1.0, Sft())])
    assert mixed.needs == {"reference", "token_mean"} and mixed.reduction == "mixed"
    assert mixed.beta_above_zero and mixed.whole_batch and mixed.uses_beta
    assert not Sum(components=[Component(1.0, Sft())]).uses_beta and not Sum.whole_batch


def test_the_rewards_of_a_sum_are_log_ratios_where_a_term_has_them():
    """A term with a score of its own does not speak for the sum."""
    mixed = Sum(components=[Component(1.0, Simpo(gamma=0.0)), Component(1.0, Sigmoid())])
    out = mixed(logps([-5.0], [-8.0]), logps([-7.0], [-5.0]), 0.1)
    assert float(out.chosen_reward_B) == pytest.approx(0.2) and not out.own_score


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ("[]", "at least one component"),
        ("[{loss: sigmoid}]", "must be like"),
        ("[sigmoid]", "must be like"),
        ("[{loss: sigmoid, weight: 0}]", "weight=0.0: must be above 0"),
        ("[{loss: sigmod, weight: 1}]", "did you mean sigmoid"),
        ("[{loss: sigmoid, weight: 1, gamma: 1}]", "unknown key loss.components[0].loss.gamma"),
        ("[{loss: aot, weight: 1, wpo: true}]", "loss.wpo=true: not defined for Aot"),
    ],
)
def test_a_malformed_sum_is_refused_in_one_line(components, said):
    """The term at fault is named."""
    with pytest.raises(UsageError) as caught:
        built("sum", f"loss.components={components}")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_sum_reads_its_terms_own_keys():
    """label_smoothing of a term is that term's."""
    loss, _ = built("sum", "loss.components=[{loss: sigmoid, weight: 2, label_smoothing: 0.1}]")
    assert loss.components[0].loss == Sigmoid(label_smoothing=0.1) and loss.components[0].weight == 2.0


def test_the_contract_alone_has_no_formula():
    """A subclass without one says so instead of training something else."""
    with pytest.raises(NotImplementedError):
        Loss()(logps([-1.0], [-2.0]), logps([-1.0], [-2.0]), 0.1)
