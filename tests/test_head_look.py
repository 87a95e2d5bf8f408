"""A head is taken for linear by what the model's code does with it, at any size of its numbers."""

import pytest
import torch
import torch.nn.functional as F
import transformers as t

from dpo.data.batches import collate
from dpo.logps import Scorer
from tests import toys

PAIRS = toys.random_pairs(5, seed=3)


def cap(z):
    return 30 * torch.tanh(z / 30)


def odd(z):
    return torch.where(z.abs() > 200, z.sign() * (200 + (z.abs() - 200).sqrt()), z)


AFTER = {
    "a cap under another key": cap,
    "an odd bend far out": odd,
    "a scale": lambda z: 1.0625 * z,
    "a shift of one token": lambda z: z + F.one_hot(torch.tensor(7), z.shape[-1]) * 0.5,
    "a temperature that looks at all": lambda z: z / z.std(-1, keepdim=True),
    "another of each position": lambda z: z * (1 + 0.1 * torch.arange(z.shape[1]))[None, :, None],
}


def fork(after=lambda z: z, before=lambda h: h, calls=True):
    """A llama with code of its own around its head, under llama's model_type."""

    class Fork(t.LlamaForCausalLM):
        def forward(self, input_ids=None, **named):
            named.pop("use_cache", None)
            hidden = before(self.model(input_ids=input_ids, use_cache=False, **named).last_hidden_state)
            logits = self.lm_head(hidden) if calls else F.linear(hidden, self.lm_head.weight)
            return t.modeling_outputs.CausalLMOutput(logits=after(logits))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = toys.model("llama", initializer_range=0.2).config
        return Fork(config).eval()


def agrees(net, layout):
    """Whether the scorer gives the model's own log-probs, one text at a time, however large its logits become."""
    scorer = Scorer(net, layout)
    for size in (1, 50, 2_000):
        with torch.no_grad():
            net.lm_head.weight.mul_(size)
            rows = scorer(collate(PAIRS, range(5), 0))
        for row, pair in zip(rows, PAIRS, strict=False):
            expected = toys.naive_logps(net, pair.prompt_ids, pair.chosen_ids)
            assert row[: len(expected)].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        with torch.no_grad():
            net.lm_head.weight.div_(size)
    return scorer


@pytest.mark.parametrize("layout", ("padded", "shared_prompt"))
@pytest.mark.parametrize("name", [name for name in AFTER if "position" not in name])
def test_whatever_is_done_behind_the_head_is_done(name, layout):
    """Today's logits are bent by none of these, those of later may be."""
    assert not agrees(fork(AFTER[name]), layout).by_chunks


def test_code_that_adds_to_every_position_is_given_every_position():
    """Fewer positions would have other numbers added, or none."""
    scorer = agrees(fork(AFTER["another of each position"]), "padded")
    assert not scorer.narrows and not scorer.by_chunks


@pytest.mark.parametrize("layout", ("padded", "shared_prompt"))
@pytest.mark.parametrize(
    "changes", ({"before": lambda h: 0.125 * h}, {"calls": False, "after": cap}), ids=["scaled-before", "never-called"]
)
def test_the_head_is_given_what_the_code_gives_it(changes, layout):
    """A scale in front of the head, which trees would not see; and code that reads the weight by itself."""
    scorer = agrees(fork(**changes), layout)
    assert not scorer.by_chunks or layout == "padded"


def test_a_plain_head_and_a_known_cap_are_read_by_chunks():
    """Nothing is lost for those who do nothing else."""
    assert agrees(fork(), "shared_prompt").by_chunks
    scorer = Scorer(toys.model("gemma2"), "shared_prompt")
    assert scorer.by_chunks and scorer.cap == toys.model("gemma2").config.final_logit_softcapping
    assert Scorer(toys.model("gemma2").bfloat16(), "shared_prompt").by_chunks
    assert not Scorer(fork(cap)).by_chunks


def test_recurrent_gemmas_cap_is_seen():
    """Its key is logits_soft_cap, and at the start its logits are far below it."""
    config = t.RecurrentGemmaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, lru_width=32
    )
    scorer = Scorer(t.AutoModelForCausalLM.from_config(config).eval())
    assert not scorer.by_chunks
