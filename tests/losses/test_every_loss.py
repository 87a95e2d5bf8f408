"""What holds for every loss: a new yaml in conf/loss is covered by being there."""

from dataclasses import replace

import pytest
import torch
import yaml

from dpo.accumulate import drive
from dpo.beta import Fixed
from dpo.config import conf_dir, load
from dpo.data.batches import micro_batches
from dpo.errors import UsageError
from dpo.evaluate.held_out import evaluate_pairs
from dpo.logps import PairLogps, Scorer
from dpo.loop import Trainee, optimizer_step
from dpo.metrics import FP32_TIE, scalars
from dpo.models.adapters import Full
from dpo.reference import Reference, StoredLogps
from tests import toys
from tests.losses.every import NAMES, built, full
from tests.test_accumulation import Pad, composed

EVERY = pytest.mark.parametrize("name", NAMES)
PAIRS = toys.random_pairs(8, seed=2)
WITHIN = 1e-5
WORDS = {"f_divergence": ["js"], "components": [[{"loss": "hinge", "weight": 2.0}]]}


def known(net, loss, cache, pairs=PAIRS):
    """What the reference `net` has to say on the pairs to a loss."""
    return Reference(net).known(pairs, loss.needs | {"reference"}, 99, 0, 9999, cache)[0]


def step(name, cache, budget):
    """(logged values, gradient) of one optimizer step on eight pairs, from the same start every time."""
    loss, beta = built(name)
    model = Full().attach(toys.model(seed=0), seed=0)
    stored = known(toys.model(seed=1), loss, cache)
    trainee = Trainee(model, Scorer(model), Pad(), PAIRS, stored, loss, Fixed(beta), 0)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    optim, settings = replace(composed().optim, max_grad_norm=None), replace(composed().train, token_budget=budget)
    values = drive(optimizer_step(trainee, optimizer, parameters, list(range(8)), 1, optim, settings, FP32_TIE))
    del values["padding"]  # what micro-batches are allowed to change
    return values, torch.cat([p.grad.flatten() for p in parameters])


@EVERY
@pytest.mark.parametrize(("c", "r"), [(1000.0, -1000.0), (-1000.0, 1000.0), (1000.0, 1000.0), (-1000.0, -1000.0)])
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_thousand_nats_stay_finite(name, c, r, dtype):
    """Loss, rewards and gradients at log-ratios of 1,000 nats either way, at the usual beta."""
    loss, beta = built(name)
    policy, reference = full([c, 0.5], [r, -0.5], dtype)
    out = loss(policy, reference, beta)
    out.loss_B.sum().backward()
    gradients = [side.grad for side in (policy.chosen_B, policy.rejected_B) if side.grad is not None]
    shown = (out.loss_B, out.chosen_reward_B, out.rejected_reward_B, *gradients)
    assert gradients and all(bool(torch.isfinite(t).all()) for t in shown)


@EVERY
def test_swapping_the_pair_flips_the_margin(name):
    """The rewards of a swapped pair are each other's: accuracy and margin have no favourite side."""
    loss, beta = built(name)
    policy, reference = full([2.0, -1.0], [-3.0, 0.5])
    policy, reference = (one_length(side) for side in (policy, reference))
    straight, turned = loss(policy, reference, beta), loss(swapped(policy), swapped(reference), beta)
    margins = [out.chosen_reward_B - out.rejected_reward_B for out in (straight, turned)]
    assert float(margins[0].abs().min()) > 0 and torch.allclose(margins[0], -margins[1])


def one_length(logps):
    """Both answers of five tokens, so that a loss on token means compares like with like."""
    return replace(logps, chosen_len_B=logps.chosen_len_B * 0 + 5, rejected_len_B=logps.chosen_len_B * 0 + 5)


def swapped(logps):
    """The two sides of every field exchanged."""
    sides = [n.removeprefix("chosen_") for n in vars(logps) if n.startswith("chosen_")]
    turned = {f"chosen_{n}": getattr(logps, f"rejected_{n}") for n in sides}
    return replace(logps, **turned, **{f"rejected_{n}": getattr(logps, f"chosen_{n}") for n in sides})


@EVERY
def test_rewards_are_detached(name):
    """Only the loss has a graph."""
    loss, beta = built(name)
    out = loss(*full([2.0, -1.0], [-3.0, 0.5]), beta)
    assert out.loss_B.requires_grad and out.loss_B.shape == (2,)
    assert not out.chosen_reward_B.requires_grad and not out.rejected_reward_B.requires_grad


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each loss's step on one micro-batch of all eight pairs."""
    cache = tmp_path_factory.mktemp("cache")
    return {name: step(name, cache, 9999) for name in NAMES}


@EVERY
@pytest.mark.parametrize("budget", (1, 40, 90))
def test_micro_batches_change_nothing(tmp_path, whole, name, budget):
    """One pair at a time, or groups of unequal sizes: every logged value and the gradient of the one-batch step."""
    assert len(micro_batches(PAIRS, range(8), budget)) > 1
    expected, expected_gradient = whole[name]
    values, gradient = step(name, tmp_path, budget)
    assert values == pytest.approx(expected, rel=WITHIN, abs=WITHIN)
    assert float((gradient - expected_gradient).norm()) < WITHIN * float(expected_gradient.norm())
    assert float(expected_gradient.norm()) > 0


@EVERY
def test_evaluation_does_not_depend_on_its_batches(tmp_path, name):
    """A row per pair, the same for any token budget; whole-batch losses see the whole set."""
    loss, beta = built(name)
    net, stored = toys.model(seed=0), known(toys.model(seed=1), loss, tmp_path)
    rows = [evaluate_pairs(Scorer(net), PAIRS, stored, loss, beta, 0, b, "fp32") for b in (9999, 40, 1)]
    for other in rows[1:]:
        assert torch.allclose(other.values["loss"], rows[0].values["loss"], rtol=1e-5, atol=1e-5)


@EVERY
def test_training_and_evaluation_measure_the_same_loss(tmp_path, whole, name):
    """Before the update, the mean over the same pairs is one number on both paths."""
    loss, beta = built(name)
    stored = known(toys.model(seed=1), loss, tmp_path)
    rows = evaluate_pairs(Scorer(toys.model(seed=0)), PAIRS, stored, loss, beta, 0, 9999, "fp32")
    values = scalars(rows, beta)
    assert values["loss"] == pytest.approx(whole[name][0]["loss"], rel=WITHIN)
    assert values["rewards/margins"] == pytest.approx(whole[name][0]["rewards/margins"], rel=WITHIN)


@EVERY
def test_a_stored_reference_is_a_fresh_one(tmp_path, name):
    """The loss from the store is that from the reference asked now, pair by pair in its own batch."""
    loss, beta = built(name)
    net, theirs = toys.model(seed=0), toys.model(seed=1)
    for _ in range(2):  # the second time everything is found in the store
        stored = known(theirs, loss, tmp_path)
        kept = evaluate_pairs(Scorer(net), PAIRS, stored, loss, beta, 0, 90, "fp32")
    fresh = evaluate_pairs(Scorer(net), PAIRS, Fresh(Reference(theirs), stored), loss, beta, 0, 60, "fp32")
    assert torch.allclose(kept.values["loss"], fresh.values["loss"], rtol=1e-5, atol=1e-5)


class Fresh:
    """A stand-in for the store that runs the reference in every batch."""

    def __init__(self, reference, stored):
        self.reference, self.live = reference, stored.live
        self.mismatched = stored.mismatched and (stored.mismatched[0], Fresh(reference, StoredLogps.nothing()))

    def logps(self, batch, needs=frozenset()):
        return PairLogps.from_tokens(self.reference.score(batch), batch.length_R, needs)


@EVERY
def test_the_first_evaluation_is_at_the_start_value(tmp_path, name):
    """Where policy = reference the mean loss is what at_reference says, whatever the pairs; rewards tie at 0."""
    loss, beta = built(name)
    net = toys.model(seed=0)
    stored = known(net, loss, tmp_path)
    rows = evaluate_pairs(Scorer(net), PAIRS, stored, loss, beta, 0, 50, "fp32")
    mine = [torch.tensor([float(x) for x in rows.values[k]]) for k in ("chosen_ref_logp", "rejected_ref_logp")]
    reference = PairLogps(*mine, rows.values["chosen_tokens"], rows.values["rejected_tokens"])
    expected = loss.at_reference(beta, reference)
    if "reference" in loss.needs:
        assert float(rows.values["loss"].mean()) == pytest.approx(expected, rel=1e-4)
        assert float((rows.values["chosen_reward"] - rows.values["rejected_reward"]).abs().max()) < 1e-4
    else:
        assert expected is None


@EVERY
def test_a_loss_that_reads_no_reference_never_asks_it(tmp_path, name):
    """Without "reference" among its needs nothing is computed or stored, and nothing it shows is NaN."""
    loss, beta = built(name)
    if "reference" in loss.needs:
        pytest.skip("reads the reference")
    stored, looked_up = Reference(toys.model(seed=1)).known(PAIRS, loss.needs, 99, 0, 9999, tmp_path)
    assert looked_up == [] and not list(tmp_path.rglob("*.safetensors"))
    rows = evaluate_pairs(Scorer(toys.model(seed=0)), PAIRS, stored, loss, beta, 0, 90, "fp32")
    values = scalars(rows, beta)
    assert all(value == value for value in values.values()) and "displacement" not in values


def knobs():
    """(loss, key, value): every key of every yaml with other values than its own."""
    for name in NAMES:
        for key, value in load([f"loss={name}"]).plain["loss"].items():
            if key in ("_target_", "usual_beta"):
                continue
            for other in WORDS.get(key, [not value] if isinstance(value, bool) else [0.3, 0.45]):
                yield name, key, other


@pytest.mark.parametrize(("name", "key", "value"), list(knobs()), ids=lambda x: str(x)[:24])
def test_every_knob_changes_the_loss_or_is_refused(name, key, value):
    """No hyperparameter or modifier is accepted and ignored; a refusal names its key in one line."""
    loss, beta = built(name)
    try:
        text = str(value).replace("'", "") if not isinstance(value, bool) else str(value).lower()
        other, _ = built(name, f"loss.{key}={text}")
    except UsageError as error:
        assert f"loss.{key}" in str(error) and "\n" not in str(error)
        return
    policy, reference = full([2.0, -1.0], [-3.0, 0.5])
    policy = replace(policy, reward_mean=torch.tensor(0.7, dtype=torch.float64))
    before, after = (x(policy, reference, beta).loss_B for x in (loss, other))
    assert not torch.allclose(before, after)


def test_every_yaml_names_its_usual_beta():
    """A number where the loss has a beta, null where it has none, and a sentence of its paper on the first line."""
    for name in NAMES:
        loss, _ = built(name)
        text = (conf_dir() / "loss" / f"{name}.yaml").read_text()
        assert (yaml.safe_load(text)["usual_beta"] is not None) == loss.uses_beta
        assert "arXiv:" in text.splitlines()[0] or name in ("sft",)
