"""Beta as a function of the step and of margins; what it refuses, remarks on and keeps in a checkpoint."""

import math
from dataclasses import replace

import pytest
import torch

from dpo.accumulate import RunningMean, drive
from dpo.beta import FLOOR, Annealed, Dynamic, Fixed
from dpo.config import load
from dpo.errors import UsageError
from dpo.logps import Scorer
from dpo.loop import Trainee, optimizer_step
from dpo.losses.bco import BcoPair
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import FP32_TIE
from dpo.models.adapters import Full
from dpo.reference import Reference
from dpo.run import run
from tests import toys
from tests.test_accumulation import Pad, composed

PAIRS = toys.random_pairs(8, seed=2)


def test_linear_annealing_by_hand():
    """From 0.5 to 0.1 over 10 steps: 0.5, 0.3 half-way, 0.1 at the end and after it."""
    beta = Annealed(0.5, 0.1, 10, "linear")
    assert [beta.value(k) for k in (0, 5, 10, 99)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_cosine_annealing_by_hand():
    """A quarter of the way is (1 - cos 45 degrees)/2 = 0.146447 of the difference."""
    beta = Annealed(0.0, 1.0, 8, "cosine")
    assert [beta.value(k) for k in (0, 2, 4, 8)] == pytest.approx([0.0, 0.146447, 0.5, 1.0], abs=1e-6)


def test_annealing_without_steps_takes_the_whole_run():
    """`over` gives it the run's length; a given number stays."""
    assert Annealed(1.0, 0.0, None, "linear").over(4).value(1) == 0.75
    assert Annealed(1.0, 0.0, 2, "linear").over(4).value(1) == 0.5


def test_dynamic_beta_by_hand():
    """beta0 0.1, alpha 0.5, momentum 0.9. d = (30, 10): mean M = 2, M0 = 0.2, beta = 0.1 (1 + 0.5 * 1.8) = 0.19.

    Then d = 0: M0 = 0.18, beta = 0.1 (1 - 0.5 * 0.18) = 0.091.
    """
    beta = Dynamic(0.1, 0.5, 0.9)
    assert beta.value(1, torch.tensor([30.0, 10.0])) == pytest.approx(0.19)
    assert beta.value(2, torch.tensor([0.0, 0.0])) == pytest.approx(0.091)


def test_dynamic_beta_has_a_floor():
    """A batch far below the running mean would make it negative."""
    assert Dynamic(0.1, 1.0, 0.0).value(1, torch.tensor([-1.0])) > FLOOR
    assert Dynamic(0.1, 9.0, 0.9).value(1, torch.tensor([-1e4])) == FLOOR


def test_evaluation_leaves_a_dynamic_beta_alone():
    """Without margins it is beta0, and its state does not move."""
    beta = Dynamic(0.1, 0.5, 0.9)
    beta.value(1, torch.tensor([30.0]))
    before = beta.state_dict()
    assert beta.value(1) == 0.1 and beta.state_dict() == before


def test_a_dynamic_beta_continues_from_its_state():
    """What a checkpoint keeps is enough: the next value is the same."""
    one, other = Dynamic(0.1, 0.5, 0.9), Dynamic(0.1, 0.5, 0.9)
    one.value(1, torch.tensor([30.0]))
    other.load_state_dict(one.state_dict())
    assert one.value(2, torch.tensor([5.0])) == other.value(2, torch.tensor([5.0]))


def test_two_runs_of_one_configuration_do_not_share_a_state():
    """`over` starts afresh."""
    beta = Dynamic(0.1, 0.5, 0.9)
    beta.value(1, torch.tensor([30.0]))
    assert beta.over(10).state_dict() == {"m0": 0.0}


@pytest.mark.parametrize("alpha", (0.0, 0.7))
def test_a_dynamic_beta_is_that_of_the_whole_batch(tmp_path, alpha):
    """Micro-batches change neither beta nor the gradient; alpha 0 is the fixed one."""
    found = []
    for budget in (9999, 40, 1):
        values, gradient, _ = step(tmp_path, budget, Dynamic(0.1, alpha, 0.9))
        found.append((values["beta"], gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6) == pytest.approx(found[2][0], rel=1e-6)
    assert (found[0][0] == 0.1) == (alpha == 0)
    for _, gradient in found[1:]:
        assert float((gradient - found[0][1]).norm()) < 1e-5 * float(gradient.norm())


def step(tmp_path, budget, beta, loss=None, adapter=None, rewards=None):
    """(values, gradient, trainee) of one optimizer step on eight pairs."""
    model = (adapter or Full()).attach(toys.model(seed=0), seed=0)
    stored, _ = Reference(toys.model(seed=1)).stored(PAIRS, 0, 9999, tmp_path)
    trainee = Trainee(model, Scorer(model), Pad(), PAIRS, stored, loss or Sigmoid(), beta, 0, rewards or RunningMean())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    optim, settings = replace(composed().optim, max_grad_norm=None), replace(composed().train, token_budget=budget)
    torch.manual_seed(5)
    values = drive(optimizer_step(trainee, optimizer, parameters, list(range(8)), 1, optim, settings, FP32_TIE))
    del values["padding"]  # what micro-batches are allowed to change
    return values, torch.cat([p.grad.flatten() for p in parameters]), trainee


def test_the_replay_of_a_batch_draws_the_same_dropout(tmp_path, monkeypatch):
    """With dropout the second pass of gradient caching must see the first one's masks: alpha 0 is the plain step."""
    adapter = replace(toys.LORA, dropout=0.5)
    _, cached, _ = step(tmp_path, 40, Dynamic(0.1, 0.0, 0.9), adapter=adapter)
    _, plain, _ = step(tmp_path, 40, Fixed(0.1), adapter=adapter)
    assert float((cached - plain).norm()) < 1e-5 * float(plain.norm()) and float(plain.norm()) > 0


def test_bco_takes_the_mean_of_earlier_rewards(tmp_path):
    """The step uses what came before it and then takes in both sides' rewards of its own batch."""
    rewards = RunningMean(total=6.0, count=4)
    values, _, trainee = step(tmp_path, 40, Fixed(0.1), BcoPair(running_mean=True), rewards=rewards)
    unshifted, _, _ = step(tmp_path, 40, Fixed(0.1), BcoPair(running_mean=False))
    assert values["loss"] != pytest.approx(unshifted["loss"], rel=1e-3)
    batch = 8 * (values["rewards/chosen"] + values["rewards/rejected"])
    assert trainee.rewards.mean == pytest.approx((6.0 + batch) / (4 + 16))
    assert values["rewards/running_mean"] == trainee.rewards.mean


def test_zero_beta_moves_nothing(tmp_path):
    """sigmoid at beta 0: the loss is ln 2 and every gradient exactly 0, through a whole model."""
    values, gradient, _ = step(tmp_path, 40, Fixed(0.0))
    assert values["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert values["grad_norm"] == 0 and bool((gradient == 0).all())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["beta.value=-0.1"], "beta.value=-0.1: must be"),
        (["beta=annealed", "beta.to=-1"], "beta.to=-1.0: must be"),
        (["beta=annealed", "beta.steps=0"], "beta.steps=0: must be"),
        (["beta=dynamic", "beta.alpha=-1"], "beta.alpha=-1.0: must be"),
        (["beta=dynamic", "beta.momentum=1"], "beta.momentum=1.0: must be"),
        (["loss=ipo", "beta.value=0"], "beta.value=0.0: must be above 0, because Ipo divides by it"),
        (["loss=sppo_hard", "beta=annealed", "beta.to=0"], "must be above 0, because SppoHard divides by it"),
        (["loss=sft", "beta.value=0.1"], "beta.value=0.1: Sft has no beta"),
        (["loss=orpo", "beta.value=0.1"], "beta.value=0.1: Orpo has no beta"),
        (["loss=sft", "beta=annealed"], "Sft has no beta"),
        (["beta.value=null"], "beta.value=null: Sigmoid needs a number"),
        (["loss=simpo", "beta=dynamic"], "beta=dynamic: reads log-ratios and Simpo has none"),
    ],
)
def test_a_beta_that_does_not_suit_the_loss_is_refused(overrides, said):
    """One line: the rule, the value, the key."""
    with pytest.raises(UsageError) as caught:
        load(overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "said"), [(0.0, "no gradient"), (20.0, "usual 0.1"), (1e-4, "usual 0.1")])
def test_an_extreme_beta_is_allowed_and_said(value, said):
    """A remark, never a refusal."""
    assert said in str(Fixed(value).remark(0.1))


@pytest.mark.parametrize("value", (0.01, 0.1, 1.0, None))
def test_a_usual_beta_is_not_remarked_on(value):
    """From 0.01 to 1 around 0.1 nothing is said."""
    assert Fixed(value).remark(0.1) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["beta=dynamic"],
        ["beta=annealed"],
        ["loss=bco_pair", "loss.running_mean=true"],
    ],
)
def test_a_resumed_run_has_the_state_of_an_unbroken_one(small, monkeypatch, overrides):
    """Killed at step 5 and continued from the checkpoint of step 4: the same rows, beta and running mean included."""
    import dpo.loop

    whole, _ = run(small(*overrides, "output_root=" + str(small().output_root) + "/whole"))
    honest = dpo.loop.optimizer_step

    def broken(*arguments):
        if arguments[4] == 5:
            raise KeyboardInterrupt
        return honest(*arguments)

    config = small(*overrides)
    with monkeypatch.context() as patch:
        patch.setattr(dpo.loop, "optimizer_step", broken)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    resumed, _ = run(small(*overrides))
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in d.rows(d.metrics)]
        for d in (whole, resumed)
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 6
