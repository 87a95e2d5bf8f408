"""What ends an answer: the same token in training, sampling and every measurement, under any template."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from dpo.data.ends import KEPT, ends, find_turn_end, other_ends, save_tokenizer, turn_end
from dpo.data.pair import Pair
from dpo.data.tokens import TokenPair, encode, encode_prompt, render, rules, tokenise, tokenise_pair
from dpo.errors import UsageError
from dpo.evaluate.samples import answer, sample_each
from dpo.models.pretrained import load_tokenizer
from dpo.progress import remark
from tests import toys
from tests.templates import KINDS, chat

ASK = [{"role": "user", "content": "Is it?"}]
EVERY = pytest.mark.parametrize("name", KINDS)


def pair_of(chosen: str = "yes", prompt=ASK, **more: object) -> Pair:
    return Pair("p", prompt, [{"role": "assistant", "content": chosen, **more}], "no", "toy")


def trained(name: str, pair: Pair) -> TokenPair:
    return tokenise_pair(pair, chat(name))[0]


@EVERY
def test_a_trained_answer_is_what_the_template_writes_up_to_its_own_end_of_turn(name: str) -> None:
    """Nothing of the template behind it: no line break, no second end."""
    made, tokenizer = trained(name, pair_of()), chat(name)
    assert tokenizer.decode(made.chosen_ids) == KINDS[name].answer
    assert sum(token in ends(tokenizer) for token in made.chosen_ids) == 1 and made.chosen_ids[-1] in ends(tokenizer)
    assert sum(token in ends(tokenizer) for token in made.rejected_ids) == 1


@EVERY
def test_prompt_and_trained_answer_are_the_beginning_of_the_whole_conversation(name: str) -> None:
    """What inference sees: the opened prompt (but for what R1 opens and no finished turn holds), then the answer."""
    made, tokenizer = trained(name, pair_of()), chat(name)
    asked = render(ASK, tokenizer)
    assert list(made.prompt_ids) == encode_prompt(asked.removesuffix("<think>\n"), tokenizer)


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("<think>\nhm\n</think>\n\nyes", {}, "<think>\nhm\n</think>\n\nyes<|im_end|>"),
        ("yes", {"reasoning_content": "hm"}, "<think>\nhm\n</think>\n\nyes<|im_end|>"),
        ("yes", {}, "<think>\n\n</think>\n\nyes<|im_end|>"),
    ],
)
def test_qwen_3_with_and_without_thinking(content: str, more: dict, said: str) -> None:
    """Reasoning in the content or beside it is trained; without any the template writes an empty one."""
    assert chat("qwen3").decode(trained("qwen3", pair_of(content, **more)).chosen_ids) == said


def test_reasoning_that_a_template_cuts_off_is_said_with_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    """R1's template keeps what follows </think>; that is trained, and a note counts the pairs."""
    remark.cache_clear()
    pairs = [dataclasses.replace(pair_of("<think>hm</think>yes"), id="a"), dataclasses.replace(pair_of(), id="b")]
    made, _ = tokenise(pairs, chat("r1"), 99)
    assert chat("r1").decode(made[0].chosen_ids) == "yes</s>"
    said = capsys.readouterr().err
    assert "in 1 of 2 pairs" in said and "reasoning" in said and "<think>" in said


def test_an_earlier_turns_reasoning_may_go(capsys: pytest.CaptureFixture[str]) -> None:
    """R1 and Qwen 3 strip it from history on purpose; the boundary stays exact and no note comes."""
    remark.cache_clear()
    history = [*ASK, {"role": "assistant", "content": "<think>hm</think>ok"}, *ASK]
    for name in ("qwen3", "r1"):
        assert chat(name).decode(trained(name, pair_of(prompt=history)).chosen_ids) == KINDS[name].answer
        tokenise([pair_of(prompt=history)], chat(name), 99)
    assert "reasoning" not in capsys.readouterr().err


def test_a_rewritten_prompt_is_refused_with_the_place() -> None:
    """Mistral writes the system turn into the last message, which is the user's until it is answered."""
    system = [{"role": "system", "content": "Be brief."}, *ASK]
    with pytest.raises(
        UsageError, match=r"behind '.*\[INST\] ' it goes on with 'Be brief.*once answered with 'Is it"
    ) as e:
        trained("mistral", pair_of(prompt=system))
    assert "system turn's text into the user's message" in str(e.value)


def test_an_end_of_turn_inside_an_answer_is_refused() -> None:
    """A model would stop there, whatever its tokenizer calls EOS."""
    with pytest.raises(UsageError, match="'<end_of_turn>' before its end"):
        trained("gemma", pair_of("yes<end_of_turn>\nmore"))


def test_texts_rendered_by_hand_get_no_second_end() -> None:
    """An answer in text that brings its end of turn keeps it alone; one that does not gets EOS."""
    tokenizer = chat("gemma")
    made, _ = tokenise_pair(Pair("p", "<start_of_turn>user\nIs it?", "yes<end_of_turn>", "no", "toy"), tokenizer)
    assert tokenizer.decode(made.chosen_ids) == "yes<end_of_turn>" and tokenizer.decode(made.rejected_ids) == "no<eos>"


def folder(path: Path, tokenizer, **files: dict) -> str:
    """A model's folder with a tokenizer and some JSON files."""
    tokenizer.save_pretrained(path)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("value", (3, [3], [0, 3, 7, 10_000]))
@pytest.mark.parametrize("file", ("generation_config", "config"))
def test_the_ends_that_a_models_files_name_travel_with_its_tokenizer(file: str, value, tmp_path: Path) -> None:
    """Numbers and lists alike; only tokens of their own count; a saved checkpoint keeps them without those files."""
    tokenizer = toys.wrap(toys.bpe_backend(["<eos>", "<a>", "<b>", "<c>"]), eos_token="<eos>")
    loaded = load_tokenizer(folder(tmp_path / "m", tokenizer, **{file: {"eos_token_id": value}}))
    assert ends(loaded) == {0, 3}
    loaded.save_pretrained(tmp_path / "checkpoint")
    assert ends(load_tokenizer(str(tmp_path / "checkpoint"))) == {0, 3} and other_ends(loaded) == [3]
    assert rules(loaded) != rules(tokenizer)


def test_a_saved_checkpoint_tells_other_tools_where_answers_end(tmp_path: Path) -> None:
    """transformers' own generate then stops where the answers that were trained do; its other settings stay."""
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0, "top_k": 7}')
    save_tokenizer(chat("chatml_on_a_base"), tmp_path)
    settings = GenerationConfig.from_pretrained(tmp_path)
    assert set(settings.eos_token_id) == ends(chat("chatml_on_a_base")) and settings.top_k == 7
    save_tokenizer(chat("chatml"), tmp_path / "eos_alone")
    assert not (tmp_path / "eos_alone" / "generation_config.json").exists()


def test_an_adapters_tokenizer_knows_its_bases_ends(tmp_path: Path) -> None:
    tokenizer = toys.wrap(toys.bpe_backend(["<eos>", "<a>"]), eos_token="<eos>")
    base = folder(tmp_path / "base", tokenizer, generation_config={"eos_token_id": [0, 1]})
    adapter = folder(tmp_path / "adapter", tokenizer, adapter_config={"base_model_name_or_path": base})
    assert ends(load_tokenizer(adapter)) == {0, 1}


def test_a_piece_of_ordinary_text_is_no_end(tmp_path: Path) -> None:
    """LlamaConfig's default eos_token_id of 2 names a letter of this vocabulary."""
    tokenizer = toys.wrap(toys.bpe_backend(["<eos>"]), eos_token="<eos>")
    loaded = load_tokenizer(folder(tmp_path, tokenizer, config={"eos_token_id": 2}))
    assert ends(loaded) == {0} and KEPT not in loaded.init_kwargs


def test_a_call_that_ends_otherwise_gets_no_second_end(tmp_path: Path) -> None:
    """Llama 3.1 ends a call of a built-in tool with <|eom_id|>, which its generation_config names."""
    tokenizer = toys.wrap(toys.bpe_backend(["<|eot_id|>", "<|eom_id|>", "<|im_start|>"]), eos_token="<|eot_id|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{{ '<|eom_id|>' if m['tool_calls'] else '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    loaded = load_tokenizer(folder(tmp_path, tokenizer, generation_config={"eos_token_id": [0, 1]}))
    calls = [{"function": {"name": "yes", "arguments": {}}}]
    assert loaded.decode(tokenise_pair(pair_of("yes", tool_calls=calls), loaded)[0].chosen_ids) == "yes<|eom_id|>"


def babbler(tokenizer, end: int) -> torch.nn.Module:
    """A model that says "yes", then `end`, and on from the start if nobody stops it."""
    size = len(tokenizer)
    net = toys.model("llama", size, hidden_size=32, tie_word_embeddings=False)
    head = torch.zeros(size, size)
    cycle = [*encode("yes", tokenizer), end, *encode("\n", tokenizer)]
    for now, then in zip([*cycle[-1:], *cycle[:-1]], cycle, strict=True):
        head[then, now] = 50.0
    with torch.no_grad():
        net.model.embed_tokens = torch.nn.Embedding.from_pretrained(torch.eye(size))
        net.model.layers = torch.nn.ModuleList()
        net.model.norm = torch.nn.Identity()
        net.lm_head = torch.nn.Linear(size, size, bias=False)
        net.lm_head.weight.copy_(head)
    return net


@pytest.mark.parametrize("where", ("template", "generation_config", "config", "list"))
@pytest.mark.parametrize("each", (False, True))
def test_sampling_ends_at_any_end(where: str, each: bool) -> None:
    """Greedy, sampled and judged answers alike, whoever names the end."""
    tokenizer = (
        chat("gemma")
        if where == "template"
        else toys.wrap(toys.bpe_backend(["<eos>", "<end_of_turn>"]), eos_token="<eos>")
    )
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    net = babbler(tokenizer, end)
    named = [tokenizer.eos_token_id, end] if where == "list" else end
    if where == "config":
        net.config.eos_token_id = named
    elif where != "template":
        net.generation_config = GenerationConfig(eos_token_id=named)
    if each:
        given = sample_each(net, tokenizer, ["Is it?\n"] * 2, [0, 1], 9, 1.0)
    else:
        given = answer(net, tokenizer, ["Is it?\n"], 9, None, 0) + answer(net, tokenizer, ["Is it?\n"], 9, 1.0, 0)
    for one in given:
        assert (one.text, one.ended, one.ids[-1]) == ("yes", True, end)


def test_a_template_that_refuses_the_probe_falls_back_to_eos() -> None:
    tokenizer = toys.wrap(toys.bpe_backend(["<eos>"]), eos_token="<eos>")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert turn_end(tokenizer) is None and ends(tokenizer) == {0}


def test_the_end_of_turn_is_looked_for_once() -> None:
    """Rendering costs; thousands of pairs ask."""
    find_turn_end.cache_clear()
    tokenise([dataclasses.replace(pair_of(), id=str(i)) for i in range(20)], chat("gemma"), 99)
    assert find_turn_end.cache_info().misses == 1


def test_dates_are_the_same_on_every_day(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """However a template asks for the day; a note says that the date is fixed."""
    import datetime

    import transformers.utils.chat_template_utils as clock

    remark.cache_clear()
    seen = set()
    for day in ("2026-03-01", "2031-12-24"):
        when = datetime.datetime.fromisoformat(day)
        frozen = type("Frozen", (datetime.datetime,), {"now": classmethod(lambda cls, tz=None, when=when: when)})
        monkeypatch.setattr(clock, "datetime", frozen)
        seen.add(trained("dated", pair_of()).prompt_ids)
        text = render(ASK, chat("dated"))
    assert "it is always given 26 Jul 2024" in capsys.readouterr().err
    assert len(seen) == 1 and text.startswith("26 Jul 2024 2024-07-26\n<|im_start|>user\n")


@pytest.mark.parametrize("lead", ("", "\n", "  ", "{# a #}\n  "))
def test_fixing_the_day_changes_nothing_else_of_a_template(lead: str) -> None:
    """Jinja strips white space by lines: a template reads the same behind the macro as by itself."""
    body = lead + "  {% if true %}\n  x\n  {% endif %}\n{{ messages[0]['content'] }}"
    tokenizer = toys.wrap(toys.bpe_backend(["<eos>"]), eos_token="<eos>")
    tokenizer.chat_template = body
    plain = render(ASK, tokenizer)
    tokenizer.chat_template = body + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    assert render(ASK, tokenizer) == plain
