"""One optimizer step on the same pairs is the same step, whatever its micro-batches."""

import functools
from dataclasses import replace

import pytest
import torch

from dpo.accumulate import drive
from dpo.beta import Fixed
from dpo.config import load
from dpo.data import batches
from dpo.data.batches import micro_batches, row_length
from dpo.data.tokens import TokenPair
from dpo.evaluate.held_out import evaluate_pairs
from dpo.logps import Scorer
from dpo.loop import Trainee, optimizer_step
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import FP32_TIE
from dpo.models.adapters import Full
from dpo.reference import Reference
from tests import toys

EQUAL = [TokenPair(p.id, (1, 2, 3), (p.chosen_ids * 4)[:4], (p.rejected_ids * 3)[:3]) for p in toys.random_pairs(8)]
LENGTH = 7  # tokens of the longer row of every pair of EQUAL
RAGGED = toys.random_pairs(8, seed=2)
WITHIN = 1e-5
LOSSES = {"sigmoid": Sigmoid(0.1), "ipo": Ipo()}
SAME = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


class Pad:
    """As much of a tokenizer as a step reads."""

    pad_token_id = 0


@functools.cache
def composed():
    """The shipped settings, composed once."""
    return load(["train.batch_size=8", "train.precision=fp32", "train.device=cpu", "optim.weight_decay=0"])


def step(tmp_path, pairs, budget, loss=LOSSES["sigmoid"], indices=range(8), max_grad_norm=None):
    """(logged values, gradient after the step, weights after the step) of one step from the same start."""
    model = Full().attach(toys.model(seed=0), seed=0)
    reference, _ = Reference(toys.model(seed=1)).stored(pairs, 0, 9999, tmp_path)
    trainee = Trainee(model, Scorer(model), Pad(), pairs, reference, loss, Fixed(0.1), 0)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    optim = replace(composed().optim, max_grad_norm=max_grad_norm)
    settings = replace(composed().train, token_budget=budget)
    values = drive(optimizer_step(trainee, optimizer, parameters, list(indices), 1, optim, settings, FP32_TIE))
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    return values, gradient, torch.cat([p.detach().flatten() for p in parameters])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The step on one micro-batch of all eight pairs, for both kinds of data and both losses."""
    cache = tmp_path_factory.mktemp("cache")
    cases = {"equal": EQUAL, "ragged": RAGGED}
    return {(c, n): step(cache, pairs, 9999, loss) for c, pairs in cases.items() for n, loss in LOSSES.items()}


@pytest.mark.parametrize("size", (1, 2, 4, 8))
def test_equal_pairs_split_as_the_budget_says(size):
    """What the next test compares is 8 x 1, 4 x 2, 2 x 4 and 1 x 8."""
    assert {row_length(p) for p in EQUAL} == {LENGTH}
    assert [len(g) for g in micro_batches(EQUAL, range(8), 2 * LENGTH * size)] == [size] * (8 // size)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", (1, 2, 4))
def test_equal_micro_batches_change_nothing(tmp_path, whole, size, name):
    """The same 8 pairs as 8 x 1, 4 x 2 and 2 x 4: loss, gradient norm and rewards of the 1 x 8 step."""
    expected, expected_gradient, _ = whole["equal", name]
    values, gradient, _ = step(tmp_path, EQUAL, 2 * LENGTH * size, LOSSES[name])
    assert {k: values[k] for k in SAME} == pytest.approx({k: expected[k] for k in SAME}, rel=WITHIN, abs=WITHIN)
    assert float((gradient - expected_gradient).norm()) < WITHIN * float(expected_gradient.norm())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("budget", (1, 50, 90))
def test_unequal_micro_batches_change_nothing(tmp_path, whole, budget, name):
    """Groups of different sizes weigh by their pairs, not one group as much as another."""
    sizes = [len(g) for g in micro_batches(RAGGED, range(8), budget)]
    assert len(sizes) > 1
    expected, expected_gradient, _ = whole["ragged", name]
    values, gradient, _ = step(tmp_path, RAGGED, budget, LOSSES[name])
    assert {k: values[k] for k in SAME} == pytest.approx({k: expected[k] for k in SAME}, rel=WITHIN, abs=WITHIN)
    assert float((gradient - expected_gradient).norm()) < WITHIN * float(expected_gradient.norm())


@pytest.mark.parametrize("name", LOSSES)
def test_groups_of_similar_rows_change_nothing(tmp_path, monkeypatch, whole, name):
    """One micro-batch whose rows are read a few at a time: loss, gradient norm and rewards of the whole."""
    monkeypatch.setattr(batches, "WHOLE", 0)
    expected, expected_gradient, _ = whole["ragged", name]
    values, gradient, _ = step(tmp_path, RAGGED, 9999, LOSSES[name])
    assert {k: values[k] for k in SAME} == pytest.approx({k: expected[k] for k in SAME}, rel=WITHIN, abs=WITHIN)
    assert float((gradient - expected_gradient).norm()) < WITHIN * float(expected_gradient.norm())


def test_a_step_tells_the_padding_of_what_was_read(tmp_path, monkeypatch):
    """Rows as long as their group's longest: more than 5 % in one group, less in several, the same tokens."""
    whole, _, _ = step(tmp_path, RAGGED, 9999)
    monkeypatch.setattr(batches, "WHOLE", 0)
    groups, _, _ = step(tmp_path, RAGGED, 9999)
    assert 0 < groups["padding"] <= 0.05 < whole["padding"] and groups["tokens/step"] == whole["tokens/step"]


def test_a_step_descends_the_mean_over_its_pairs(tmp_path):
    """A batch and the same batch with every pair twice have one gradient: batch size does not scale the step."""
    _, once, _ = step(tmp_path, RAGGED, 90)
    _, twice, _ = step(tmp_path, RAGGED + RAGGED, 90, indices=range(16))
    assert float((once - twice).norm()) < WITHIN * float(once.norm())


def test_a_step_reads_the_pairs_it_was_given(tmp_path):
    """The last pairs of a list meet their own reference log-probs: the step equals one on a list of these alone."""
    some, gradient, _ = step(tmp_path, RAGGED, 50, indices=[7, 5, 6])
    alone, expected, _ = step(tmp_path, RAGGED[5:], 50, indices=range(3))
    assert {k: some[k] for k in SAME} == pytest.approx({k: alone[k] for k in SAME}, rel=WITHIN, abs=WITHIN)
    assert float((gradient - expected).norm()) < WITHIN * float(expected.norm())


def test_the_gradient_norm_is_logged_before_clipping(tmp_path):
    """Clipping bounds the gradient that is used; the row shows how large it was."""
    free, gradient, _ = step(tmp_path, RAGGED, 90)
    clipped, bounded, _ = step(tmp_path, RAGGED, 90, max_grad_norm=0.01)
    assert free["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert clipped["grad_norm"] == pytest.approx(free["grad_norm"], rel=1e-5) and free["grad_norm"] > 0.1
    assert float(bounded.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_step_moves_the_weights_down_the_loss(tmp_path):
    """After the update the same pairs have a lower loss than the row of that update shows."""
    values, _, moved = step(tmp_path, RAGGED, 90)
    model = toys.model(seed=0)
    torch.nn.utils.vector_to_parameters(moved, model.parameters())
    reference, _ = Reference(toys.model(seed=1)).stored(RAGGED, 0, 9999, tmp_path)
    after = evaluate_pairs(Scorer(model), RAGGED, reference, LOSSES["sigmoid"], 0.1, 0, 90, "fp32")
    assert float(after.values["loss"].mean()) < values["loss"]
