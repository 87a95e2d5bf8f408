"""Sampled and greedy answers: seeded, unfiltered, untouched by a model's own defaults, cut at EOS."""

import random

import pytest
import torch
from transformers import GenerationConfig

from dpo.evaluate.samples import Answer, PickBySeed, answer, describe, repetition, sample_each
from tests import toys

TOKENIZER = toys.tokenizer("byte")
EOS = TOKENIZER.eos_token_id
PROMPTS = ["About Bo.", "x", "a longer prompt than these"]
DECODING = pytest.mark.parametrize("temperature", (None, 1.0), ids=["greedy", "sampled"])


def bytes_model(family="llama", **changes):
    return toys.model(family, vocabulary=len(TOKENIZER), **changes)


def ask(net, temperature=1.0, seed=0, prompts=PROMPTS, new_tokens=6, **options):
    return answer(net, TOKENIZER, prompts, new_tokens, temperature, seed, **options)


def scripted(*rows):
    """A model that says these ids, a row per prompt; past its end a row goes on with its last id."""
    net, step = bytes_model(), iter(range(99))

    def say(module, args, logits_BTV):
        position = next(step)
        logits_BTV = torch.full_like(logits_BTV, -1e4)
        for row, ids in enumerate(rows):
            logits_BTV[row, -1, ids[min(position, len(ids) - 1)]] = 1e4
        return logits_BTV

    net.get_output_embeddings().register_forward_hook(say)
    return net


def byte_ids(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


@DECODING
def test_the_same_arguments_give_the_same_answers(temperature):
    """Whatever the global random state."""
    net = bytes_model()
    first = ask(net, temperature)
    torch.manual_seed(99)
    assert ask(net, temperature) == first


def test_another_seed_samples_other_answers():
    """The seed reaches the sampler."""
    net = bytes_model()
    assert ask(net, seed=0) != ask(net, seed=1)


def test_one_prompt_twice_has_two_samples():
    """Rows of a batch are drawn independently."""
    first, second = ask(bytes_model(), prompts=["same", "same"])
    assert first.ids != second.ids


@DECODING
def test_sampling_leaves_the_global_random_state(temperature):
    """torch's and Python's generators go on as if nothing had been drawn."""
    net = bytes_model()
    before = torch.get_rng_state(), random.getstate()
    ask(net, temperature)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_samples_come_from_the_whole_vocabulary():
    """First tokens of 400 samples of a nearly flat model: many more kinds than transformers' default top-k of 50."""
    flat = bytes_model(initializer_range=0.01)
    assert len({a.ids for a in ask(flat, prompts=["x"] * 400, new_tokens=1, batch_size=400)}) > 120


@pytest.mark.parametrize(
    "defaults",
    [
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "top_p": 0.01},
        {"do_sample": True, "temperature": 0.01},
        {"do_sample": True, "min_p": 0.9},
        {"do_sample": True, "typical_p": 0.05},
        {"repetition_penalty": 50.0},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[i] for i in range(0, 256, 2)]},
        {"suppress_tokens": list(range(0, 256, 2))},
        {"eos_token_id": list(range(0, 256, 2))},
        {"forced_bos_token_id": 7},
        {"min_new_tokens": 6},
        {"max_length": 12},
        {"num_beams": 3},
        {"num_return_sequences": 2, "do_sample": True},
    ],
    ids=lambda d: next(name for name in reversed(d) if name != "do_sample"),
)
@DECODING
def test_a_models_own_generation_defaults_do_not_leak_in(defaults, temperature):
    """The answers are those of the same model without them."""
    plain, changed = bytes_model(), bytes_model()
    changed.generation_config = GenerationConfig(**defaults)
    assert ask(changed, temperature) == ask(plain, temperature)


def test_a_models_generation_defaults_come_back():
    """After answering, the model is exported with what it came with."""
    net = bytes_model()
    own = net.generation_config = GenerationConfig(top_k=7, do_sample=True)
    ask(net)
    assert net.generation_config is own and own.top_k == 7


def test_a_models_generation_defaults_come_back_below_an_adapter():
    """peft hands the wrapper's settings to the model inside: what is merged and saved later keeps its own."""
    inside = bytes_model()
    own = inside.generation_config = GenerationConfig(top_k=7, do_sample=True)
    ask(toys.LORA.attach(inside, seed=0).eval())
    assert inside.generation_config.to_dict() == own.to_dict()
    assert inside.generation_config.top_k == 7


def test_eos_stays_in_the_ids_and_leaves_the_text():
    """The answer "hi" is three tokens, ended."""
    (given,) = ask(scripted([*byte_ids("hi"), EOS]), None, prompts=["x"])
    assert given.ids == (*byte_ids("hi"), EOS) and given.text == "hi" and given.ended


def test_an_answer_at_the_length_limit_has_no_eos():
    """Six tokens and no end: nothing is added, nothing is claimed."""
    (given,) = ask(scripted(byte_ids("hello, world")), None, prompts=["x"])
    assert given.text == "hello," and len(given.ids) == 6 and not given.ended


def test_an_answer_that_ends_early_has_no_padding():
    """Beside a longer answer, a row keeps one EOS and none of what fills it up."""
    net = scripted([*byte_ids("no"), EOS], byte_ids("longer"))
    short, long = ask(net, None, prompts=["x", "yy"])
    assert short.ids == (*byte_ids("no"), EOS) and short.text == "no" and short.ended
    assert long.text == "longer" and not long.ended


def test_an_eos_at_the_limit_counts_as_an_end():
    """The last token allowed may be the EOS."""
    (given,) = ask(scripted([*byte_ids("hello"), EOS]), None, prompts=["x"])
    assert given.ended and given.ids[-1] == EOS and given.text == "hello"


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_greedy_answers_do_not_depend_on_the_batch(family):
    """Prompts of different lengths answered together (padded on the left) and one by one."""
    net = bytes_model(family)
    assert ask(net, None) == ask(net, None, batch_size=1)


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_greedy_answers_are_the_likeliest_tokens(family):
    """Each token is the argmax of a bare forward over all before it."""
    net = bytes_model(family)
    for given in ask(net, None):
        ids = [*given.prompt_ids, *given.ids]
        with torch.no_grad():
            logits_TV = net(input_ids=torch.tensor([ids])).logits[0]
        assert logits_TV[len(given.prompt_ids) - 1 : -1].argmax(-1).tolist() == list(given.ids)


def test_answers_come_in_the_order_of_their_prompts():
    """Across batches, each with the prompt as the model saw it."""
    given = ask(bytes_model(), None, batch_size=2)
    assert [a.prompt for a in given] == PROMPTS
    assert [list(a.prompt_ids) for a in given] == [byte_ids(p) for p in PROMPTS]


def test_chat_prompts_are_answered_in_their_template():
    """Messages are rendered with the opening of the assistant's turn."""
    tokenizer = toys.tokenizer("chatml")
    net = toys.model(vocabulary=len(tokenizer))
    (given,) = answer(net, tokenizer, [[{"role": "user", "content": "Bo?"}]], 3, None, 0)
    assert given.prompt == "<|im_start|>user\nBo?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(given.prompt_ids) == given.prompt


def test_repetition_is_the_share_of_repeated_four_grams():
    """abcdabcd has the 4-grams abcd, bcda, cdab, dabc, abcd: one of five repeats. Three tokens have none."""
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 1, 1, 1, 1]) == pytest.approx(1 / 2)
    assert repetition([1, 1, 1]) == 0.0


def test_answers_are_described_by_means_over_answers():
    """Lengths 5 and 3, one of two ended, repetitions 1/2 and 0."""
    given = [Answer("", (), (1, 1, 1, 1, 1), "", False), Answer("", (), (1, 2, 3), "", True)]
    expected = {"samples/length": 4.0, "samples/eos_rate": 0.5, "samples/repetition": 0.25}
    assert describe(given) == pytest.approx(expected)


def each(net, prompts, seeds, temperature=1.0):
    """Answers of up to 12 bytes, each with its own seed."""
    return sample_each(net, TOKENIZER, prompts, seeds, 12, temperature)


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_a_seeded_answer_is_the_same_in_any_batch(family):
    """Alone, or padded beside longer and shorter prompts in any order: 24 prompts of 1 to 60 bytes."""
    net = bytes_model(family)
    prompts = ["x" * (1 + 7 * i % 60) for i in range(24)]
    together = each(net, prompts, range(24))
    alone = [each(net, [prompt], [seed])[0] for seed, prompt in enumerate(prompts)]
    backwards = each(net, prompts[::-1], range(24)[::-1])[::-1]
    assert together == alone == backwards


def test_another_seed_draws_another_answer_and_the_same_one_the_same():
    """Equal prompts in one batch differ by their seeds alone."""
    first, second, third = each(bytes_model(), ["x"] * 3, [0, 1, 0])
    assert first == third and first.ids != second.ids


def test_seeded_answers_do_not_touch_or_need_the_global_random_state():
    """Neither torch's generator nor what it holds."""
    net = bytes_model()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = each(net, PROMPTS, range(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert each(net, PROMPTS, range(3)) == first


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_picks_follow_the_softmax_at_the_temperature(temperature):
    """20,000 rows of the same logits (0, 1, 2, -inf): shares within 0.015 of softmax(logits / T), the last never."""
    logits_V = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    left_BV = PickBySeed(range(20_000), temperature)(torch.zeros(20_000, 1), logits_V.expand(20_000, 4))
    shares_V = (left_BV == 0).double().mean(0)
    assert (torch.isfinite(left_BV).sum(1) == 1).all() and shares_V[3] == 0
    assert torch.allclose(shares_V, (logits_V.double() / temperature).softmax(-1), atol=0.015)


def test_each_step_draws_a_number_of_its_own():
    """Flat logits, eight steps: the picks of a row are not all one token, and no two of 50 rows are equal."""
    pick = PickBySeed(range(50), 1.0)
    rows = torch.stack([pick(torch.zeros(50, 1), torch.zeros(50, 1000)).argmax(1) for _ in range(8)], 1).tolist()
    assert all(len(set(row)) > 4 for row in rows) and len({tuple(row) for row in rows}) == 50


def test_rounding_moves_next_to_no_pick():
    """4,000 rows of 1,000 flat logits with noise of 1e-5 on them: at most two picks move (expected 0.03)."""
    logits_BV = torch.randn(4000, 1000, generator=torch.Generator().manual_seed(0))
    noisy_BV = logits_BV + 1e-5 * torch.randn(4000, 1000, generator=torch.Generator().manual_seed(1))
    picks = [PickBySeed(range(4000), 1.0)(torch.zeros(4000, 1), x).argmax(1) for x in (logits_BV, noisy_BV)]
    assert (picks[0] != picks[1]).sum() <= 2
