"""Families without token trees: padded rows whose logits are never all there, where the head allows it."""

import pytest
import torch
import transformers as t

from dpo.data import batches
from dpo.data.batches import collate
from dpo.logps import Scorer
from dpo.models.adapters import Lora
from dpo.tree import refusal
from tests import toys

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
LLAMA_LIKE = SIZES | {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LINEAR = {
    "opt": t.OPTConfig(
        **SIZES, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.3, dropout=0
    ),
    "phi": t.PhiConfig(**LLAMA_LIKE, **ENDS),
    "gptj": t.GPTJConfig(
        vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=64, rotary_dim=8, resid_pdrop=0.3, **ENDS
    ),
    "bloom": t.BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3, **ENDS),
    "olmo2": t.Olmo2Config(**LLAMA_LIKE, **ENDS),
}
SCALED = {
    "cohere": t.CohereConfig(**LLAMA_LIKE, **ENDS, logit_scale=0.25),
    "granite": t.GraniteConfig(**LLAMA_LIKE, **ENDS, logits_scaling=4.0),
}
PAIRS = toys.random_pairs(5, seed=3)
FACTS = frozenset({"wpo", "token_facts"})


def model(name):
    """A random model of a family, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config((LINEAR | SCALED)[name]).eval()


def read(scorer, pairs=PAIRS, needs=FACTS):
    """(log-probs and facts, gradient) of one batch, and how many positions each call of the head put out."""
    seen = []
    hook = scorer.model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1]))
    scorer.zero_grad()
    out_KRC = scorer(collate(pairs, range(len(pairs)), 0), needs)
    out_KRC[0].sum().backward()
    hook.remove()
    return out_KRC.detach(), torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None]), seen


@pytest.mark.parametrize("name", (*LINEAR, *SCALED))
def test_log_probs_equal_a_loop_over_tokens(name):
    """The definition: one unpadded forward per token."""
    net = model(name)
    assert refusal(net.config) is not None
    with torch.no_grad():
        rows = Scorer(net)(collate(PAIRS, range(len(PAIRS)), 0))
    for row, pair in zip(rows, PAIRS, strict=False):
        expected = toys.naive_logps(net, pair.prompt_ids, pair.chosen_ids)
        assert row[: len(expected)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("lora", (False, True), ids=["full", "lora"])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_head_never_puts_out_all_logits(name, lora, monkeypatch):
    """One position a pass reaches it; log-probs, facts and gradients are those of all logits at once."""
    monkeypatch.setattr(batches, "WHOLE", 0)
    net = model(name)
    if lora:
        targets = {"opt": "q_proj,v_proj", "bloom": "query_key_value", "gptj": "q_proj,v_proj"}
        net = toys.moved(Lora(2, 8, 0.0, targets.get(name, "qv"), "all", False).attach(net, 0)).eval()
    few, plain = Scorer(net), Scorer(net)
    plain.by_chunks = False
    (scores, gradient, seen), (expected, theirs, all_seen) = read(few), read(plain)
    assert few.by_chunks and set(seen) == {1} and len(seen) > 1
    assert sum(all_seen) == sum(len(p.chosen_ids) + len(p.rejected_ids) for p in PAIRS)
    assert torch.allclose(scores, expected, rtol=0, atol=1e-5)
    assert float((gradient - theirs).norm()) < 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("name", SCALED)
def test_a_head_that_is_scaled_behind_its_product_keeps_its_logits(name):
    """The model's own code decides what its logits are."""
    assert not Scorer(model(name).bfloat16()).by_chunks
    scorer = Scorer(model(name))
    assert not scorer.by_chunks and sum(read(scorer)[2]) > len(PAIRS)


def test_a_family_with_trees_keeps_all_logits_in_padded_rows():
    """They are what its trees are held against."""
    assert not Scorer(toys.model()).by_chunks and Scorer(toys.model(), "shared_prompt").by_chunks


@pytest.mark.parametrize("name", ("opt", "phi", "gptj", "olmo2", "granite"))
def test_the_output_projection_is_found_under_each_of_its_names(name):
    """adapter.target=qkvo: four adapted layers in each of two blocks, none outside attention."""
    net = Lora(2, 8, 0.0, "qkvo", "all", False).attach(model(name), 0)
    adapted = [found for found, module in net.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 8 and all("attn" in found for found in adapted)


def test_looking_at_the_head_asks_nothing_of_a_fast_attention():
    """FlashAttention takes no float32 outside of autocast; what was asked for stays."""

    def half_only(*_, **__):
        raise RuntimeError("only half precision")

    t.AttentionInterface.register("half_only", half_only)
    for net in (toys.model(), model("olmo2"), model("olmo2").bfloat16(), toys.model("gemma2").bfloat16()):
        net.config._attn_implementation = "half_only"
        assert Scorer(net).by_chunks and net.config._attn_implementation == "half_only"


def test_looking_at_the_head_draws_nothing():
    """A model that is put to train with dropout: the random state stays."""
    net = model("gptj").train()
    before = torch.get_rng_state()
    assert Scorer(net).by_chunks
    assert torch.equal(before, torch.get_rng_state())
