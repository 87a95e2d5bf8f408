"""Completion log-probs equal their definition, in every model family, whatever else is in the batch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dpo.data import batches
from dpo.data.batches import collate
from dpo.data.tokens import TokenPair
from dpo.distributions import pad_rows
from dpo.logps import PairLogps, Scorer, score
from tests import toys

EVERY = pytest.mark.parametrize("family", toys.FAMILIES)
PAIRS = toys.random_pairs(5, seed=3)
WITHIN = 1e-5  # nats per completion token


def rows(net, pairs=PAIRS, pad_id=0):
    """logp_RC of all pairs in one batch."""
    with torch.no_grad():
        return Scorer(net)(collate(pairs, range(len(pairs)), pad_id))


def widened(batch, by, pad_id=0):
    """The same batch with `by` more columns of padding."""
    return replace(
        batch,
        ids_RT=F.pad(batch.ids_RT, (0, by), value=pad_id),
        mask_RT=F.pad(batch.mask_RT, (0, by)),
        completion_RT=F.pad(batch.completion_RT, (0, by)),
    )


@EVERY
def test_log_probs_equal_a_loop_over_tokens(family):
    """Each completion token given all before it, by one unpadded forward per token."""
    net = toys.model(family)
    got = rows(net)
    answers = [(p.prompt_ids, p.chosen_ids) for p in PAIRS] + [(p.prompt_ids, p.rejected_ids) for p in PAIRS]
    for row, (prompt, answer) in zip(got, answers, strict=True):
        assert row[: len(answer)].tolist() == pytest.approx(toys.naive_logps(net, prompt, answer), abs=WITHIN)
        assert not row[len(answer) :].any()


@EVERY
def test_sums_equal_a_loop_over_tokens(family):
    """PairLogps: sums over completion tokens with their counts, each side under its own name."""
    net = toys.model(family)
    with torch.no_grad():
        got = score(Scorer(net), collate(PAIRS, range(len(PAIRS)), 0))
    for i, p in enumerate(PAIRS):
        for value, length, answer in (
            (got.chosen_B[i], got.chosen_len_B[i], p.chosen_ids),
            (got.rejected_B[i], got.rejected_len_B[i], p.rejected_ids),
        ):
            assert int(length) == len(answer)
            assert float(value) == pytest.approx(
                sum(toys.naive_logps(net, p.prompt_ids, answer)), abs=WITHIN * len(answer)
            )


@EVERY
def test_more_padding_changes_nothing(family):
    """Seven more columns of any padding id, also one that is a real token."""
    net = toys.model(family)
    with torch.no_grad():
        wide = Scorer(net)(widened(collate(PAIRS, range(len(PAIRS)), pad_id=0), by=7, pad_id=9))
    assert torch.allclose(wide, rows(net), rtol=0, atol=WITHIN)


@EVERY
def test_the_rest_of_the_batch_changes_nothing(family):
    """A pair by itself scores as it does among others."""
    net = toys.model(family)
    together = rows(net)
    for i, p in enumerate(PAIRS):
        width = max(len(p.chosen_ids), len(p.rejected_ids))
        assert torch.allclose(rows(net, [p]), together[[i, len(PAIRS) + i], :width], rtol=0, atol=WITHIN)


@pytest.fixture
def cut(monkeypatch):
    """Small batches are cut into groups of rows too."""
    monkeypatch.setattr(batches, "WHOLE", 0)
    assert 4 <= len(collate(PAIRS, range(len(PAIRS)), 0).groups()) < 2 * len(PAIRS)


@EVERY
def test_groups_of_similar_rows_score_as_one_batch(family, monkeypatch):
    """Log-probs and what losses ask for beside them, for the graph and for the other model's logits."""
    net, batch = toys.model(family), collate(PAIRS, range(len(PAIRS)), 0)
    other, needs = Scorer(toys.model(family, seed=1)), frozenset({"wpo", "token_kl", "token_facts"})
    asked = {}
    for name, limit in (("whole", 9999), ("cut", 0)):
        monkeypatch.setattr(batches, "WHOLE", limit)
        net.zero_grad()
        scores_KRC = Scorer(net)(batch, needs, other.logits(batch).detach())
        (scores_KRC[0].sum() + scores_KRC[2].sum()).backward()
        asked[name] = scores_KRC.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])
    (scores_KRC, gradient), (expected_KRC, expected) = asked["cut"], asked["whole"]
    assert torch.allclose(scores_KRC, expected_KRC, rtol=0, atol=WITHIN)
    assert float((gradient - expected).norm()) < WITHIN * float(expected.norm())


def test_the_rows_of_a_batch_are_read_in_groups_of_similar_length(cut):
    """What reaches the model holds at most 5 % padding."""
    net, seen = toys.model(), []
    net.register_forward_pre_hook(lambda _, args, given: seen.append(given["attention_mask"]), with_kwargs=True)
    rows(net)
    assert len(seen) > 1 and 1 - sum(int(m.sum()) for m in seen) / sum(m.numel() for m in seen) <= 0.05


@EVERY
def test_a_pair_that_differs_in_its_first_token_only_has_that_tokens_margin(family):
    """Answers of one token: the margin is the difference of two logits at the prompt's last position."""
    net = toys.model(family)
    with torch.no_grad():
        logits_V = net(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1]
        got = score(Scorer(net), collate([TokenPair("p", (5, 6, 7), (3,), (4,))], [0], 0))
    margin = float(got.chosen_B - got.rejected_B)
    assert margin == pytest.approx(float(logits_V[3] - logits_V[4]), abs=2 * WITHIN) and abs(margin) > 0.01


@EVERY
def test_a_pair_that_differs_in_its_first_token_only_has_a_gradient(family):
    """A shared tail behind the differing token cancels nothing."""
    net = toys.model(family)
    got = score(Scorer(net), collate([TokenPair("p", (5, 6, 7), (3, 8, 9), (4, 8, 9))], [0], 0))
    margin = got.chosen_B - got.rejected_B
    margin.sum().backward()
    assert abs(float(margin.detach())) > 0.01
    assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) > 0.01


def test_equal_answers_have_no_margin():
    """Both sides are read the same way."""
    got = score(Scorer(toys.model()), collate([TokenPair("p", (5, 6), (3, 8), (3, 8))], [0], 0))
    assert float((got.chosen_B - got.rejected_B).abs().detach()) < WITHIN


@EVERY
def test_logits_exist_at_completion_positions_only(family):
    """The head puts out (1, N, V), N the completion tokens of the batch."""
    net, seen = toys.model(family), []
    net.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape))
    rows(net)
    completion_tokens = sum(len(p.chosen_ids) + len(p.rejected_ids) for p in PAIRS)
    assert seen == [(1, completion_tokens, 40)]


@pytest.mark.parametrize("autocast", (False, True), ids=["bf16-weights", "bf16-autocast"])
def test_log_softmax_is_in_float32_below_bf16(autocast):
    """Results are float32 and exact for the head's bf16 logits; a log-softmax in bf16 would be off by 1e-2."""
    net, logits = toys.model(), []
    net.get_output_embeddings().register_forward_hook(lambda module, args, output: logits.append(output))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = rows(net if autocast else net.bfloat16())
    batch = collate(PAIRS, range(len(PAIRS)), 0)
    exact_NV = logits[0][0].double().log_softmax(-1)
    exact_N = exact_NV.gather(1, batch.ids_RT[batch.completion_RT][:, None])[:, 0]
    assert logits[0].dtype == torch.bfloat16 and got.dtype == torch.float32
    assert torch.allclose(got, pad_rows(exact_N, batch.length_R).float(), rtol=0, atol=2e-6)


@EVERY
def test_scoring_leaves_the_model_as_it_was(family):
    """The hook is gone: a plain forward gives logits at every position again."""
    net = toys.model(family)
    rows(net)
    assert net(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 40)


def test_a_failed_forward_leaves_no_hook():
    """A token id outside the vocabulary raises, and the next plain forward is whole."""
    net = toys.model()
    with pytest.raises(IndexError):
        rows(net, [TokenPair("p", (5,), (3,), (4000,))])
    assert net(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 40)


@pytest.mark.parametrize("family", ("llama", "gpt2"))
def test_a_model_under_an_adapter_scores_by_its_own_definition(family):
    """LoRA with weights that matter, against the loop over tokens of the same wrapped model."""
    net = toys.LORA.attach(toys.model(family), seed=0).eval()
    before = rows(net)
    after, pair = rows(toys.moved(net)), PAIRS[0]
    expected = toys.naive_logps(net, pair.prompt_ids, pair.chosen_ids)
    assert not torch.allclose(before, after, atol=0.1)
    assert after[0, : len(expected)].tolist() == pytest.approx(expected, abs=WITHIN)


def test_rows_are_padded_with_zeros_at_their_ends():
    """Lengths 2, 0 and 3 laid out from one flat stretch."""
    flat_N = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    expected = [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 4.0, 5.0]]
    assert pad_rows(flat_N, torch.tensor([2, 0, 3])).tolist() == expected


def test_detached_logps_keep_their_numbers_without_a_graph():
    """What metrics read cannot reach the policy's graph."""
    a, b = torch.tensor([1.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    kept = PairLogps(a, b, torch.tensor([1]), torch.tensor([1])).detach()
    assert (float(kept.chosen_B), float(kept.rejected_B)) == (1.0, 2.0)
    assert not kept.chosen_B.requires_grad and not kept.rejected_B.requires_grad
