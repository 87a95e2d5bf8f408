"""The shared store of reference log-probs: equal to fresh ones, keyed by what changes them and by nothing else."""

import copy
import math

import pytest
import torch

from dpo.data.batches import collate
from dpo.data.tokens import TokenPair, tokenise
from dpo.logps import Scorer, score
from dpo.models.adapters import Lora
from dpo.models.pretrained import load_model, weights_hash
from dpo.reference import Reference
from tests import toys

PAIRS = toys.random_pairs(9, seed=5)
BUDGET = 80
WITHIN = 1e-5  # nats per completion token


def stored(net, cache, pairs=PAIRS, budget=BUDGET, precision="fp32", pad_id=0):
    """(stored log-probs, whether they were found) of a new reference around `net`."""
    return Reference(net, precision=precision).stored(pairs, pad_id, budget, cache)


def hit(net, cache, **kwargs):
    return stored(net, cache, **kwargs)[1]


def nudged(net, by=1e-4):
    """A copy that differs in a single weight."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.parameters()).view(-1)[3] += by
    return other


@pytest.mark.parametrize("count", (9, 3), ids=["train", "evaluation"])
@pytest.mark.parametrize("budget", (1, 60, 10_000))
def test_stored_log_probs_equal_fresh_ones(tmp_path, count, budget):
    """Whatever batches filled the store and whatever batch asks: token by token, in the order of its pairs."""
    net, pairs = toys.model(), toys.random_pairs(count, seed=count)
    kept, _ = stored(net, tmp_path, pairs=pairs, budget=budget)
    for indices in ([0], [2, 0], list(range(count))[::-1]):
        batch = collate(pairs, indices, 0)
        with torch.no_grad():
            fresh_RC = Scorer(net)(batch)
        assert kept.rows(batch).shape == fresh_RC.shape
        assert torch.allclose(kept.rows(batch), fresh_RC, rtol=0, atol=WITHIN)


def test_stored_sums_are_of_the_right_side(tmp_path):
    """Chosen and rejected sums of a batch, against a fresh score."""
    net = toys.model()
    batch = collate(PAIRS, [4, 1], 0)
    kept = stored(net, tmp_path)[0].logps(batch)
    with torch.no_grad():
        fresh = score(Scorer(net), batch)
    for side in ("chosen_B", "rejected_B", "chosen_len_B", "rejected_len_B"):
        assert torch.allclose(getattr(kept, side), getattr(fresh, side), rtol=0, atol=10 * WITHIN), side


def test_the_second_call_reads_the_store(tmp_path):
    """The second call is a hit, gives the same numbers, and never runs the model."""
    first, was_hit = stored(toys.model(), tmp_path)
    again = Reference(toys.model())
    again.scorer = None
    second, is_hit = again.stored(PAIRS, 0, BUDGET, tmp_path)
    assert (was_hit, is_hit) == (False, True)
    assert torch.equal(first.flat_N, second.flat_N) and torch.equal(first.end_S, second.end_S)


def test_the_key_changes_with_a_single_weight(tmp_path):
    """One weight moved by 1e-4 is another reference."""
    net = toys.model()
    assert not hit(net, tmp_path) and not hit(nudged(net), tmp_path) and hit(net, tmp_path)


def test_the_key_changes_with_the_architecture(tmp_path):
    """The same weights under another epsilon compute something else."""
    stored(toys.model(), tmp_path)
    assert not hit(toys.model(rms_norm_eps=1e-2), tmp_path)


def test_the_key_changes_with_an_adapter_merged_into_the_weights(tmp_path):
    """A start given as an adapter is another reference than its base."""
    stored(toys.model(), tmp_path)
    merged = toys.moved(toys.LORA.attach(toys.model(), seed=0)).merge_and_unload()
    assert not hit(merged, tmp_path)


def test_the_key_changes_with_the_pairs(tmp_path):
    """One pair fewer, or one other answer."""
    net = toys.model()
    stored(net, tmp_path)
    other = [*PAIRS[:-1], TokenPair(PAIRS[-1].id, PAIRS[-1].prompt_ids, (7, 7), PAIRS[-1].rejected_ids)]
    assert not hit(net, tmp_path, pairs=PAIRS[:-1]) and not hit(net, tmp_path, pairs=other)


def test_the_key_changes_with_truncation_that_cuts(tmp_path):
    """The same texts under a shorter max_length."""
    net, texts = toys.model(vocabulary=420), [toys.text_pair("About Bo.\n", "a longer answer", "no")]
    long, short = (tokenise(texts, toys.tokenizer("bpe"), length)[0] for length in (40, 10))
    stored(net, tmp_path, pairs=long)
    assert not hit(net, tmp_path, pairs=short)


def test_the_key_does_not_change_with_truncation_that_cuts_nothing(tmp_path):
    """Another max_length that changes no id computes nothing anew."""
    net, texts = toys.model(vocabulary=420), [toys.text_pair("About Bo.\n", "a longer answer", "no")]
    stored(net, tmp_path, pairs=tokenise(texts, toys.tokenizer("bpe"), 40)[0])
    assert hit(net, tmp_path, pairs=tokenise(texts, toys.tokenizer("bpe"), 50)[0])


def test_the_key_changes_with_the_tokenizer(tmp_path):
    """The same texts read by another tokenizer."""
    net, texts = toys.model(vocabulary=420), [toys.text_pair("About Bo.\n")]
    bpe, byte = (tokenise(texts, toys.tokenizer(kind), 40)[0] for kind in ("bpe", "byte"))
    stored(net, tmp_path, pairs=bpe)
    assert not hit(net, tmp_path, pairs=byte)


def test_the_key_changes_with_the_template(tmp_path):
    """The same messages under another chat template of the same tokenizer."""
    net, tokenizer = toys.model(vocabulary=420), copy.deepcopy(toys.tokenizer("chatml"))
    texts = [toys.text_pair([{"role": "user", "content": "Bo?"}])]
    stored(net, tmp_path, pairs=tokenise(texts, tokenizer, 99)[0])
    tokenizer.chat_template = toys.CHATML.replace("assistant\n", "assistant: ").replace("\n{{ m", ": {{ m")
    assert not hit(net, tmp_path, pairs=tokenise(texts, tokenizer, 99)[0])


def test_the_key_changes_with_the_weights_dtype(tmp_path):
    """bf16 weights give other numbers, even where rounding left every weight what it was."""
    rounded = toys.model().bfloat16().float()
    stored(rounded, tmp_path, precision="bf16")
    assert not hit(copy.deepcopy(rounded).bfloat16(), tmp_path, precision="bf16")


def test_the_key_changes_with_the_precision(tmp_path):
    """fp32 and autocast to bf16 give other numbers from the same weights."""
    stored(toys.model(), tmp_path)
    assert not hit(toys.model(), tmp_path, precision="bf16")


@pytest.mark.parametrize("other", [{"budget": 9999}, {"pad_id": 3}], ids=["token_budget", "pad_id"])
def test_the_key_does_not_change_with_the_layout(tmp_path, other):
    """Batching and padding change no result, so they share one entry."""
    stored(toys.model(), tmp_path)
    assert hit(toys.model(), tmp_path, **other)


def test_the_key_does_not_change_with_the_names_of_pairs(tmp_path):
    """The reference sees ids only."""
    stored(toys.model(), tmp_path)
    renamed = [TokenPair(f"other-{p.id}", p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in PAIRS]
    assert hit(toys.model(), tmp_path, pairs=renamed)


def test_the_key_does_not_change_with_where_the_weights_came_from(tmp_path):
    """Saved and loaded from any folder, a model is the same reference."""
    net = toys.model()
    stored(net, tmp_path / "cache")
    net.save_pretrained(tmp_path / "here")
    assert hit(load_model(str(tmp_path / "here")), tmp_path / "cache")


def test_the_key_does_not_change_with_how_the_policy_is_trained(tmp_path):
    """The start under a disabled adapter and the start by itself share one entry (one pass for arms of both)."""
    stored(toys.model(), tmp_path)
    net = toys.LORA.attach(toys.model(), seed=0)
    assert Reference(net, lambda: toys.LORA.disabled(net)).stored(PAIRS, 0, BUDGET, tmp_path)[1]


@pytest.mark.parametrize("adapter", (toys.LORA, toys.DORA), ids=["lora", "dora"])
@pytest.mark.parametrize("family", ("llama", "gpt_neox", "gpt2"))
def test_an_attached_adapter_does_not_count_in_the_hash(family, adapter):
    """Bare, wrapped, and wrapped with a trained adapter: the same base, the same hash."""
    if adapter is toys.DORA and family == "gpt2":
        adapter = Lora(r=2, alpha=8, dropout=0.0, target="qv", layers="all", dora=False)
    bare = weights_hash(toys.model(family))
    net = adapter.attach(toys.model(family), seed=0)
    assert weights_hash(net) == bare
    assert weights_hash(toys.moved(net)) == bare


def test_stored_log_probs_are_finite_nats(tmp_path):
    """Every token has a log-prob below zero, and as many as the pairs have completion tokens."""
    kept, _ = stored(toys.model(), tmp_path)
    assert len(kept.flat_N) == sum(len(p.chosen_ids) + len(p.rejected_ids) for p in PAIRS) == int(kept.end_S[-1])
    assert all(math.isfinite(v) and v < 0 for v in kept.flat_N.tolist())
