"""Rotary positions that depend on the longest text of a batch: a text's numbers are its own, wherever it is read."""

import copy

import pytest
import torch
import transformers as t

from dpo.accumulate import RunningMean, Step
from dpo.beta import Fixed
from dpo.data.batches import collate
from dpo.data.tokens import TokenPair
from dpo.evaluate.samples import answer
from dpo.logps import Scorer
from dpo.losses.sigmoid import Sigmoid
from dpo.models.adapters import Lora
from dpo.models.fit import fit
from dpo.models.reward import RewardScorer
from dpo.reference import Reference
from dpo.rotary import OwnLengths
from dpo.tree import layout_of
from tests import toys

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON = SIZES | {"vocab_size": 40, "initializer_range": 0.3}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "long_factor": [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0],
    "short_factor": [1.0] * 8,
    "original_max_position_embeddings": 12,
}
GEMMA = {"sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}, "full_attention": DYNAMIC}
CONFIGS = {
    "llama, dynamic": t.LlamaConfig(**COMMON, **ENDS, max_position_embeddings=12, rope_parameters=DYNAMIC),
    "neox, dynamic": t.GPTNeoXConfig(
        **COMMON, **ENDS, max_position_embeddings=12, rope_parameters=DYNAMIC | {"partial_rotary_factor": 1.0}
    ),
    "phi3, longrope": t.Phi3Config(**COMMON, **ENDS, max_position_embeddings=512, rope_parameters=LONG),
    "gemma 3, dynamic in some layers": t.Gemma3TextConfig(
        **COMMON,
        **ENDS,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=12,
        rope_parameters=GEMMA,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


class OldDynamicRotary(torch.nn.Module):
    """As code on the hub had it: a table that grows with the longest text it has met, and says so in no config."""

    def __init__(self, width, limit):
        super().__init__()
        self.width, self.limit, self.max_seq_len_cached = width, limit, 0

    def forward(self, x, position_ids):
        length = int(position_ids.max()) + 1
        if length > self.max_seq_len_cached:
            self.max_seq_len_cached = length
        base = 10_000.0 * max(1.0, 4 * self.max_seq_len_cached / self.limit - 3)
        frequencies = base ** -(torch.arange(0, self.width, 2) / self.width)
        angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def pair(i, prompt, chosen, rejected):
    """A pair of random tokens of these lengths."""
    draw = torch.Generator().manual_seed(i)
    ids = torch.randint(1, 40, (prompt + chosen + rejected,), generator=draw).tolist()
    return TokenPair(str(i), *(tuple(x) for x in (ids[:prompt], ids[prompt : prompt + chosen], ids[prompt + chosen :])))


PAIRS = [pair(0, 3, 4, 6), pair(1, 4, 8, 2), pair(2, 6, 30, 24), pair(3, 5, 7, 8), pair(4, 6, 24, 12)]


def model(name):
    """A random model with such positions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "llama, foreign code":
            net = t.LlamaForCausalLM(t.LlamaConfig(**COMMON, **ENDS, max_position_embeddings=12)).eval()
            net.model.rotary_emb = OldDynamicRotary(16, 12)
            return net
        return t.AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


EVERY = pytest.mark.parametrize("name", (*CONFIGS, "llama, foreign code"))


def alone(name, ids, answer_length):
    """The definition: log-probs of the last tokens of a text that a new model reads by itself."""
    with torch.no_grad():
        logp_TV = model(name)(torch.tensor([ids])).logits[0].log_softmax(-1)
    first = len(ids) - answer_length
    return [float(logp_TV[i - 1, ids[i]]) for i in range(first, len(ids))]


@EVERY
def test_a_texts_log_probs_are_those_of_reading_it_alone(name):
    """In any batch, in any order, in evaluation as in training."""
    net = model(name)
    scorer = Scorer(net, layout_of(net.config, "auto")[0])
    for order in ([0, 1, 2, 3, 4], [4, 2], [0], [3, 1, 0]):
        rows = scorer(collate(PAIRS, order, 0)).detach()
        for row, i in zip(rows, order, strict=False):
            expected = alone(name, PAIRS[i].prompt_ids + PAIRS[i].chosen_ids, len(PAIRS[i].chosen_ids))
            assert row[: len(expected)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_family_with_such_positions_is_read_as_trees(name):
    """A tree has one set of positions for both answers; the note says why, and the scorer holds to it by itself."""
    net = model(name)
    assert layout_of(net.config, "shared_prompt")[0] == "padded"
    if name.startswith("llama"):
        assert "length of a text" in layout_of(net.config, "auto")[1]
    assert Scorer(net, "shared_prompt").layout == "padded"
    assert OwnLengths.of(toys.model("llama")) is None


@EVERY
def test_a_step_and_the_stored_reference_agree(name, tmp_path):
    """The store was read in other batches than the step's; before the first update all log-ratios are rounding."""
    target = "qkv_proj" if name.startswith("phi3") else "query_key_value" if name.startswith("neox") else "qv"
    net = Lora(2, 4, 0.0, target, "all", False).attach(model(name), 0).eval()
    reference = Reference(net, lambda: net.disable_adapter())
    known, _ = reference.stored(PAIRS, 0, 40, tmp_path)
    step = Step(Scorer(net), PAIRS, known, Sigmoid(), Fixed(0.1), RunningMean(), [0, 3, 1], 1, 0, 9_999, "fp32")
    rows, _ = step.accumulate()
    for side in ("chosen", "rejected"):
        assert torch.allclose(rows.values[f"{side}_logp"], rows.values[f"{side}_ref_logp"], rtol=0, atol=1e-4)


def test_a_reward_is_that_of_reading_the_text_alone():
    """The reward model reads the same groups."""
    config = copy.deepcopy(CONFIGS["llama, dynamic"])
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    scorer = RewardScorer(t.AutoModelForSequenceClassification.from_config(config).eval())
    with torch.no_grad():
        together = scorer(collate(PAIRS, range(5), 0))[0]
        by_itself = torch.cat([scorer(collate(PAIRS, [i], 0))[0] for i in range(5)])
    assert torch.allclose(together, by_itself, atol=1e-5)


def test_supervised_steps_read_each_text_with_its_own_positions():
    """One step on three texts of different lengths: the gradient is the mean over tokens of those texts alone."""
    nets = [model("llama, dynamic") for _ in range(2)]
    examples = [(p.prompt_ids, p.chosen_ids) for p in PAIRS[:3]]
    total = sum(len(answer) for _, answer in examples)
    for prompt, said in examples:
        ids = torch.tensor([[*prompt, *said]])
        nets[0].model.rotary_emb.max_seq_len_cached = 0
        logp_TV = nets[0](ids).logits[0].log_softmax(-1)
        (-sum(logp_TV[i - 1, ids[0, i]] for i in range(len(prompt), ids.shape[1])) / total).backward()
    seen = {}
    head = nets[1].lm_head.weight
    head.register_post_accumulate_grad_hook(lambda p: seen.__setitem__("grad", p.grad.clone()))
    fit(nets[1], examples, 1, 3, 1e-9, 0, 0, "")
    assert torch.allclose(seen["grad"], nets[0].lm_head.weight.grad, atol=1e-5)


def test_answers_do_not_depend_on_the_other_prompts():
    """A short prompt is answered as if it were alone, beside a long one."""
    net, tokenizer = model("llama, dynamic"), toys.tokenizer("byte")
    net.resize_token_embeddings(len(tokenizer))
    together = answer(net, tokenizer, ["ab", "abcdefghij" * 3], 8, None, 0)
    assert together[0].ids == answer(net, tokenizer, ["ab"], 8, None, 0)[0].ids
