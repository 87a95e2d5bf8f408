"""What a loss may ask beyond sums, against its definition on full distributions; and the plain step as it was."""

import pytest
import torch
import torch.nn.functional as F

from dpo.accumulate import drive
from dpo.beta import Fixed
from dpo.data.batches import collate, micro_batches
from dpo.data.tokens import TokenPair, mismatch
from dpo.distributions import kl_from
from dpo.logps import PairLogps, Scorer, score
from dpo.loop import Trainee, optimizer_step
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid
from dpo.measure import measure
from dpo.metrics import FP32_TIE
from dpo.models.adapters import Full
from dpo.reference import Reference, StoredLogps
from tests import toys
from tests.test_accumulation import Pad, composed

PAIRS = toys.random_pairs(5, seed=3)
WITHIN = 1e-4


@torch.no_grad()
def distributions(net, prompt, answer):
    """log-probs over the vocabulary at every answer position, one bare prefix at a time, in float64."""
    ids = [*prompt, *answer]
    rows = [net(input_ids=torch.tensor([ids[:p]])).logits[0, -1].double() for p in range(len(prompt), len(ids))]
    return torch.stack(rows).log_softmax(-1)


def everything(needs, cache, tokens=9999, net=None, theirs=None):
    """(policy, reference) of all pairs as the loop measures them."""
    net, theirs = net or toys.model(seed=0), theirs or toys.model(seed=1)
    known, _ = Reference(theirs).known(PAIRS, frozenset(needs) | {"reference"}, 99, 0, tokens, cache)
    batch = collate(PAIRS, range(len(PAIRS)), 0)
    return measure(Scorer(net), batch, known, frozenset(needs), {}, 0, "fp32")


def test_shared_sums_stop_at_the_shorter_answer(tmp_path):
    """Both sides, both models: the first min(n_c, n_r) tokens."""
    policy, reference = everything({"shared"}, tmp_path)
    for net, side in ((toys.model(seed=0), policy), (toys.model(seed=1), reference)):
        for i, p in enumerate(PAIRS):
            shared = min(len(p.chosen_ids), len(p.rejected_ids))
            expected = sum(toys.naive_logps(net, p.prompt_ids, p.chosen_ids[:shared]))
            assert float(side.chosen_shared_B[i]) == pytest.approx(expected, abs=WITHIN)
            expected = sum(toys.naive_logps(net, p.prompt_ids, p.rejected_ids[:shared]))
            assert float(side.rejected_shared_B[i]) == pytest.approx(expected, abs=WITHIN)


def test_alignment_is_a_mean_of_log_probs_above_their_expectation(tmp_path):
    """WPO's weight in logs: mean over tokens of log p(y_t) - log sum_v p(v)^2, without a graph."""
    policy, _ = everything({"wpo"}, tmp_path)
    assert policy.chosen_B.requires_grad and not policy.chosen_alignment_B.requires_grad
    for i, p in enumerate(PAIRS):
        logp_NV = distributions(toys.model(seed=0), p.prompt_ids, p.rejected_ids)
        taken_N = logp_NV[torch.arange(len(logp_NV)), list(p.rejected_ids)]
        expected = (taken_N - (2 * logp_NV).logsumexp(-1)).mean()
        assert float(policy.rejected_alignment_B[i]) == pytest.approx(float(expected), abs=WITHIN)


def test_token_kl_is_a_sum_over_positions_and_vocabulary(tmp_path):
    """sum_t KL(ref || policy), with the policy's graph; and the reference's sums come from the same live pass."""
    policy, reference = everything({"token_kl"}, tmp_path)
    assert policy.chosen_kl_B.requires_grad and not reference.chosen_B.requires_grad
    for i, p in enumerate(PAIRS):
        ours, theirs = (distributions(toys.model(seed=s), p.prompt_ids, p.chosen_ids) for s in (0, 1))
        assert float(policy.chosen_kl_B[i]) == pytest.approx(
            float(F.kl_div(ours, theirs, reduction="sum", log_target=True)), abs=WITHIN
        )
        expected = sum(toys.naive_logps(toys.model(seed=1), p.prompt_ids, p.chosen_ids))
        assert float(reference.chosen_B[i]) == pytest.approx(expected, abs=WITHIN)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_token_kl_of_equal_models_is_zero(tmp_path):
    """Also through a disabled adapter, which is the reference of a LoRA policy."""
    net = toys.LORA.attach(toys.model(seed=0), seed=0)
    reference = Reference(net, lambda: toys.LORA.disabled(net))
    known = StoredLogps.nothing(reference)
    policy, _ = measure(Scorer(net), collate(PAIRS, range(5), 0), known, frozenset({"token_kl"}), {}, 0, "fp32")
    assert float(policy.chosen_kl_B.abs().max()) < 1e-5 and policy.chosen_kl_B.requires_grad


def test_token_kl_cuts_padded_vocabularies():
    """A head padded past the other's vocabulary is compared on what both have."""
    narrow_NV = torch.randn(3, 5)
    padded_NV = torch.cat([narrow_NV, torch.full((3, 2), 3.0)], 1)
    assert float(kl_from(padded_NV, narrow_NV).abs().max()) < 1e-6


def test_a_mismatch_is_the_successors_answers_behind_the_pairs_prompt():
    """Fixed by the data's order, the first pair after the last, cut to the length limit."""
    pairs = [TokenPair("a", (1,), (2, 3), (4,)), TokenPair("b", (5, 6), (7,), (8, 9))]
    assert mismatch(pairs, 3) == [TokenPair("a", (1,), (7,), (8, 9)), TokenPair("b", (5, 6), (2,), (4,))]


def test_mismatched_log_probs_are_those_of_the_mismatch(tmp_path):
    """The mean of both sides, under policy (no graph) and reference."""
    policy, reference = everything({"mismatched"}, tmp_path)
    assert not policy.mismatched_B.requires_grad
    for net, side in ((toys.model(seed=0), policy), (toys.model(seed=1), reference)):
        for i, p in enumerate(mismatch(PAIRS, 99)):
            sums = [sum(toys.naive_logps(net, p.prompt_ids, ids)) for ids in (p.chosen_ids, p.rejected_ids)]
            assert float(side.mismatched_B[i]) == pytest.approx(sum(sums) / 2, abs=WITHIN)


def test_concatenation_keeps_every_field():
    """Pairs follow each other; facts of the whole batch stay one number."""
    part = PairLogps(*[torch.tensor([1.0, 2.0])] * 4, mismatched_B=torch.zeros(2), mean_chosen_len=torch.tensor(3.0))
    whole = PairLogps.concat([part, part])
    assert whole.chosen_B.tolist() == [1, 2, 1, 2] and whole.mismatched_B.tolist() == [0] * 4
    assert whole.mean_chosen_len.item() == 3.0 and whole.chosen_kl_B is None


def smoothed_dpo(c_B, r_B, n_B, m_B):
    """(1 - e) softplus(-z) + e softplus(z) at e = 0.1, beta = 0.1."""
    z_B = 0.1 * (c_B - r_B)
    return (1 - 0.1) * F.softplus(-z_B) + 0.1 * F.softplus(z_B)


def ipo(c_B, r_B, n_B, m_B):
    """(c/n - r/m - 1/(2 beta))^2 at beta = 0.1."""
    return (c_B / n_B - r_B / m_B - 1 / (2 * 0.1)) ** 2


FORMULAS = {"sigmoid": (Sigmoid(0.1), smoothed_dpo), "ipo": (Ipo(), ipo)}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("budget", (50, 9999))
def test_a_plain_step_is_bit_equal_to_its_recipe(tmp_path, name, budget):
    """forward, formula, backward per micro-batch, written out: not a bit differs for losses that need no more."""
    loss, formula = FORMULAS[name]
    known, _ = Reference(toys.model(seed=1)).stored(PAIRS, 0, 9999, tmp_path)
    weights, losses = [], []

    model = Full().attach(toys.model(seed=0), seed=0)
    trainee = Trainee(model, Scorer(model), Pad(), PAIRS, known, loss, Fixed(0.1), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    optim, settings = composed().optim, composed().train
    settings = type(settings)(**vars(settings) | {"token_budget": budget})
    values = drive(
        optimizer_step(trainee, optimizer, list(model.parameters()), [4, 0, 2, 1, 3], 1, optim, settings, FP32_TIE)
    )
    del values["padding"]  # what micro-batches are allowed to change
    weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

    model = Full().attach(toys.model(seed=0), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for group in micro_batches(PAIRS, [4, 0, 2, 1, 3], budget):
        batch = collate(PAIRS, group, 0)
        policy, reference = score(Scorer(model), batch), known.logps(batch)
        c_B, r_B = policy.chosen_B - reference.chosen_B, policy.rejected_B - reference.rejected_B
        loss_B = formula(c_B, r_B, policy.chosen_len_B, policy.rejected_len_B)
        (loss_B.sum() / 5).backward()
        losses += loss_B.tolist()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
    optimizer.step()
    weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights) and values["loss"] == pytest.approx(sum(losses) / 5, rel=1e-12)
