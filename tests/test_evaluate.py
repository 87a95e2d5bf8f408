"""Evaluation pairs and the KL estimate: equal to their definitions, whatever the batching."""

import math

import pytest
import torch

from dpo.evaluate.drift import kl
from dpo.evaluate.held_out import evaluate_pairs, noise_floor
from dpo.evaluate.samples import Answer, answer
from dpo.logps import Scorer
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import COLUMNS, FP32_TIE, scalars, wins
from dpo.reference import Reference
from tests import toys

PAIRS = toys.random_pairs(7, seed=4)
WITHIN = 1e-5  # nats per completion token
POLICY, OTHER = toys.model(seed=0), toys.model(seed=1)


def evaluate(cache, budget=9999, loss=Sigmoid(0.0), policy=POLICY, reference=OTHER, pairs=PAIRS):  # noqa: B008
    """Rows of the pairs at beta 0.1."""
    stored, _ = Reference(reference).stored(pairs, 0, 500, cache)
    return evaluate_pairs(Scorer(policy), pairs, stored, loss, 0.1, 0, budget, "fp32")


@pytest.mark.parametrize("loss", [Sigmoid(0.0), Ipo()], ids=["sigmoid", "ipo"])
@pytest.mark.parametrize("budget", (1, 45, 70))
def test_rows_and_metrics_are_the_same_for_any_token_budget(tmp_path, budget, loss):
    """Every column of every pair, in the order of the pairs, and every scalar."""
    one, many = evaluate(tmp_path, loss=loss), evaluate(tmp_path, budget, loss)
    assert many.pair_B.tolist() == list(range(7))
    for name in COLUMNS:
        assert torch.allclose(many.values[name], one.values[name], rtol=WITHIN, atol=10 * WITHIN), name
    assert scalars(many, 0.1) == pytest.approx(scalars(one, 0.1), rel=WITHIN, abs=10 * WITHIN)


def test_rows_equal_a_loop_over_tokens(tmp_path):
    """Log-probs of policy and reference, lengths, rewards and loss of each pair, from the definitions alone."""
    values = evaluate(tmp_path, budget=60).values
    for i, p in enumerate(PAIRS):
        sums = {}
        for side, ids in (("chosen", p.chosen_ids), ("rejected", p.rejected_ids)):
            sums[f"{side}_logp"] = sum(toys.naive_logps(POLICY, p.prompt_ids, ids))
            sums[f"{side}_ref_logp"] = sum(toys.naive_logps(OTHER, p.prompt_ids, ids))
            sums[f"{side}_reward"] = 0.1 * (sums[f"{side}_logp"] - sums[f"{side}_ref_logp"])
            sums[f"{side}_tokens"] = len(ids)
        sums["loss"] = math.log1p(math.exp(sums["rejected_reward"] - sums["chosen_reward"]))
        assert {name: float(values[name][i]) for name in COLUMNS} == pytest.approx(sums, abs=10 * WITHIN)


def test_the_start_is_all_ties_and_no_margin(tmp_path):
    """Policy and reference the same model, scored in different batches: accuracy one half, displacement none."""
    rows = evaluate(tmp_path, budget=45, reference=POLICY)
    values = scalars(rows, 0.1)
    assert wins(rows, FP32_TIE).tolist() == [0.5] * 7
    assert abs(values["rewards/margins"]) < 1e-6 and values["displacement"] == 0
    assert values["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_evaluation_makes_no_graph(tmp_path):
    """Every forward runs without a graph, whose activations would fill the memory; rows have none either."""
    policy, recording = toys.model(), []
    policy.register_forward_hook(lambda module, args, output: recording.append(torch.is_grad_enabled()))
    rows = evaluate(tmp_path, policy=policy, budget=45)
    assert len(recording) > 1 and not any(recording)
    assert not any(v.requires_grad for v in rows.values.values())


def test_the_noise_floor_is_the_float32_tie_in_fp32():
    """No measurement where rounding is known."""
    assert noise_floor(Scorer(POLICY), PAIRS, 0, 100, "fp32", None) == FP32_TIE


@pytest.mark.parametrize("reference", (POLICY, OTHER), ids=["start", "another"])
def test_the_noise_floor_in_bf16_is_measured_and_bounded(tmp_path, reference):
    """At least the float32 tie; at most bf16's resolution, so that no real difference of the start is hidden."""
    start = evaluate(tmp_path, reference=reference)
    assert FP32_TIE <= noise_floor(Scorer(POLICY), PAIRS, 0, 100, "bf16", start) <= 2**-8


@pytest.mark.parametrize("seed", (0, 1, 2))
def test_the_start_is_all_ties_in_bf16_whatever_batches_filled_the_store(tmp_path, seed):
    """The store is shared by runs of any token budget: rounding between their batches is below the noise floor."""
    model, pairs = toys.model(seed=seed, initializer_range=0.1), toys.random_pairs(100, seed)
    stored, _ = Reference(model, precision="bf16").stored(pairs, 0, 1, tmp_path)
    rows = evaluate_pairs(Scorer(model), pairs, stored, Sigmoid(0.0), 0.1, 0, 300, "bf16")
    assert wins(rows, noise_floor(Scorer(model), pairs, 0, 300, "bf16", rows)).tolist() == [0.5] * 100


def answers(*ids):
    """Given answers to the prompt (5, 6)."""
    return [Answer("", (5, 6), tuple(a), "", False) for a in ids]


GIVEN = answers((3, 4, 9), (8,), (7, 7, 7, 7, 2))


def estimate(policy, reference, given=GIVEN, budget=9999):
    return kl(Scorer(policy), Reference(reference).score, given, 0, budget)


def test_the_kl_of_a_model_against_itself_is_zero():
    """Exactly, per sequence and per token, on any answers."""
    assert estimate(POLICY, POLICY) == {"kl": 0.0, "kl_per_token": 0.0, "kl_n": 3.0}


@pytest.mark.parametrize("budget", (1, 24, 9999))
def test_the_kl_equals_a_loop_over_tokens(budget):
    """The mean over sequences, and over tokens, of log pi - log pi_ref; the same for any token budget."""
    differences = [
        [p - q for p, q in zip(*(toys.naive_logps(m, a.prompt_ids, a.ids) for m in (POLICY, OTHER)), strict=True)]
        for a in GIVEN
    ]
    total = sum(map(sum, differences))
    expected = {"kl": total / 3, "kl_per_token": total / 9, "kl_n": 3.0}
    assert estimate(POLICY, OTHER, budget=budget) == pytest.approx(expected, abs=5 * WITHIN)
    assert abs(total) > 1


def test_the_kl_changes_its_sign_with_the_models():
    """On the same answers, policy minus reference is the opposite of reference minus policy."""
    assert estimate(OTHER, POLICY)["kl"] == pytest.approx(-estimate(POLICY, OTHER)["kl"], rel=1e-5)


def test_the_kl_of_sampled_first_tokens_meets_the_exact_one():
    """Answers of one token have KL = sum p ln(p/q) at the prompt's end: 600 samples lie within 4 standard errors.

    A sampler that filters (top-k, top-p) or sharpens would draw from another p and miss it.
    """
    tokenizer = toys.tokenizer("byte")
    policy, reference = (toys.model(vocabulary=len(tokenizer), seed=s, initializer_range=0.15) for s in (0, 1))
    drawn = answer(policy, tokenizer, ["ab"] * 600, 1, 1.0, seed=0, batch_size=300)
    with torch.no_grad():
        ids = torch.tensor([drawn[0].prompt_ids])
        logp_V, logq_V = (m(input_ids=ids).logits[0, -1].double().log_softmax(-1) for m in (policy, reference))
    difference_V, p_V = logp_V - logq_V, logp_V.exp()
    exact = float((p_V * difference_V).sum())
    error = math.sqrt(float((p_V * (difference_V - exact) ** 2).sum()) / 600)
    estimated = estimate(policy, reference, drawn)
    assert abs(estimated["kl"] - exact) < 4 * error and exact > 8 * error
    assert estimated["kl_n"] == 600 and estimated["kl"] == pytest.approx(estimated["kl_per_token"])
