"""What a row may hold: answers of one turn, repeated prompts, typed parts, tools, and values that are no JSON."""

import datetime
import decimal
import json
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.config import load
from dpo.data.audit import repeats_prompt
from dpo.data.files import read_pairs, to_pair
from dpo.data.pair import Pair
from dpo.data.tokens import texts
from dpo.errors import UsageError
from tests.templates import chat


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said(text: str | None, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
Q, EARLIER = "Where does it rain most of all?", [user("Hello."), said("Hello!")]


def row(prompt, *histories, **more):
    """A row whose answers begin with the given turns."""
    histories = histories if len(histories) == 2 else histories * 2
    return {"prompt": prompt, "chosen": [*histories[0], said("yes")], "rejected": [*histories[1], said("no")], **more}


@pytest.mark.parametrize(
    ("prompt", "history", "expected"),
    [
        (Q, [user(Q)], [user(Q)]),
        (Q, [SYSTEM, user(Q)], [SYSTEM, user(Q)]),
        (Q + "\n", [*EARLIER, user(Q)], [*EARLIER, user(Q)]),
        ("Hello.", [*EARLIER, user(Q)], [*EARLIER, user(Q)]),
        ([user(Q)], [user(Q)], [user(Q)]),
        ([user("Hello.")], [*EARLIER, user(Q)], [*EARLIER, user(Q)]),
        ([user(Q)], [SYSTEM, user(Q)], [SYSTEM, user(Q)]),
        ([SYSTEM, user(Q)], [user(Q)], [SYSTEM, user(Q)]),
        ([SYSTEM, user(Q)], [], [SYSTEM, user(Q)]),
    ],
)
def test_answers_that_are_whole_conversations_lose_the_prompt(prompt, history, expected) -> None:
    """The prompt as text or messages, with a system turn on either side or earlier turns, is there once."""
    pair = to_pair(row(prompt, history), "a:1", "toy")
    assert (pair.prompt, pair.chosen, pair.rejected) == (expected, [said("yes")], [said("no")])


@pytest.mark.parametrize(
    "bad",
    [
        row(Q, [user("Another question?")]),
        row([user(Q)], [user("Another question?")]),
        row(Q, [user(Q)], [user(Q), said("a"), user("b")]),
        row(Q, [said("hello"), user("more please")]),
        row(Q, [user(Q)]) | {"rejected": "no"},
        row([user(Q)], [said(None, tool_calls=[{"function": {"name": "f"}}]), {"role": "tool", "content": "3"}]),
    ],
)
def test_answers_of_several_turns_are_refused_for_that(bad) -> None:
    """Whoever speaks in them; the message says what to do, and the settings that read whole conversations."""
    with pytest.raises(
        UsageError, match=r"a:1: chosen and rejected hold several turns.*user|tool.*dataset\.prompt=null"
    ):
        to_pair(bad, "a:1", "toy")


@pytest.mark.parametrize("kind", ("chatml", "gemma"))
def test_an_answer_of_several_turns_from_any_source_is_refused_under_every_template(kind: str) -> None:
    """A source of its own may make such pairs; no template decides whether the user's words are learned."""
    pair = Pair("p", [user(Q)], [said("a"), user("more"), said("b")], [said("c")], "toy")
    with pytest.raises(UsageError, match="several turns"):
        texts(pair, chat(kind))


def test_an_answer_by_the_user_is_refused() -> None:
    with pytest.raises(UsageError, match="rejected is a turn of the user"):
        to_pair(row(Q, []) | {"rejected": [user("no")]}, "a:1", "toy")


def test_hub_rows_of_several_turns_are_dropped_by_name(tmp_path: Path) -> None:
    """Published sets count what they leave out; where nothing is left that is the message."""
    path = tmp_path / "a.jsonl"
    rows = [row(Q, [user("Another?")]), row(Q, [user(Q)]), row(Q, []) | {"rejected": [user("x")]}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    split = load(["dataset=hub", f"dataset.path={path}", f"dataset.eval_path={path}"]).dataset.load()
    assert [pair.prompt for pair in split.train] == [[user(Q)]]
    assert (split.counts["many_turns"], split.counts["not_assistant"]) == (2, 2)
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UsageError, match="no row makes a usable pair; left out were 1 of 1 for many_turns"):
        load(["dataset=hub", f"dataset.path={path}"]).dataset.load()


def test_typed_parts_of_text_are_their_text_and_others_are_named() -> None:
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    assert to_pair(row([{"role": "user", "content": parts}], []), "a:1", "toy").prompt == [user("Where is it?")]
    with pytest.raises(UsageError, match=r"a:1: prompt holds a message with a content part of type image"):
        to_pair(row([{"role": "user", "content": [{"type": "image", "url": "x"}]}], []), "a:1", "toy")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "found"),
    [
        (Q, Q + " In Hawaii.", "No idea.", True),
        (Q + "\n", "No idea.", Q + "\nIn Hawaii.", True),
        (Q, f"<|user|>{Q}<|assistant|>In Hawaii.", f"<|user|>{Q}<|assistant|>No idea.", True),
        ([SYSTEM, user(Q)], f"\n\nHuman: {Q}\n\nAssistant: a", f"\n\nHuman: {Q}\n\nAssistant: b", True),
        ([user(Q)], [user(Q), said("a")], [user(Q), said("b")], True),
        (Q, "In Hawaii.", "No idea.", False),
        (Q, "You ask: " + Q, "No idea.", False),
        ("Hello", "Hello! How are you?", "Hi.", False),
        (Q, "same", "same", False),
    ],
)
def test_the_audit_finds_the_prompt_inside_answers(prompt, chosen, rejected, found) -> None:
    """As text, as messages, and in a rendering that both answers begin with; not a greeting returned."""
    assert repeats_prompt(Pair("p", prompt, chosen, rejected, "toy")) is found


TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"city": {"type": "string"}}}}


def call(**arguments: object) -> dict:
    return said(None, tool_calls=[{"type": "function", "function": {"name": "get_weather", "arguments": arguments}}])


@pytest.mark.parametrize("tools", ([TOOL], json.dumps([TOOL])))
def test_tools_reach_the_template(tools) -> None:
    """As a list or as JSON of one; an empty column is none."""
    pair = to_pair(row(Q, [], tools=tools) | {"chosen": [call(city="Paris", unit=None)]}, "a:1", "toy")
    prompt, chosen, _ = texts(pair, chat("tools"))
    assert "get_weather" in prompt and '{"city": "Paris"}' in chosen and "null" not in chosen
    for none in (None, [], "", "[]"):
        assert to_pair(row(Q, [], tools=none), "a:1", "toy") == to_pair(row(Q, []), "a:1", "toy")


@pytest.mark.parametrize("tools", ("{", 3, ["f"], [[]]))
def test_tools_of_another_form_are_refused(tools) -> None:
    with pytest.raises(UsageError, match="a:1: tools is"):
        to_pair(row(Q, [], tools=tools), "a:1", "toy")


def test_values_that_json_lacks_become_text_or_are_named() -> None:
    """Parquet holds dates, decimals and bytes inside messages."""
    when, price = datetime.datetime(2024, 1, 2), decimal.Decimal("1.50")
    made = to_pair(row([user(Q) | {"at": when, "price": price}], []), "a:1", "toy")
    assert made.prompt[0]["at"] == "2024-01-02 00:00:00" and made.prompt[0]["price"] == "1.50"
    deep: list = []
    for _ in range(100):
        deep = [deep]
    for bad, why in ((b"x", "holds a bytes"), ({1: 2}, "whose name is a int"), (deep, "nested more than")):
        with pytest.raises(UsageError, match="a:1: prompt.*" + why):
            to_pair(row([user(Q) | {"extra": bad}], []), "a:1", "toy")


@pytest.mark.parametrize("bad", (float("nan"), float("inf"), [], {}, True, b"x", "a\ud800"))
def test_an_id_is_text_or_a_number(bad) -> None:
    with pytest.raises(UsageError, match="a:1: id"):
        to_pair(row(Q, [], id=bad), "a:1", "toy")
    assert to_pair(row(Q, [], id=10**30), "a:1", "toy").id == str(10**30)


def test_a_missing_prompt_before_whole_conversations_names_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({k: v for k, v in row(Q, [user(Q)]).items() if k != "prompt"}) + "\n")
    with pytest.raises(UsageError, match=r"a.jsonl:1: no prompt; .*dataset=hub dataset\.prompt=null"):
        read_pairs(path)


def test_preview_refuses_texts_that_repeat_their_prompt(cache: Path, tmp_path: Path, capsys) -> None:
    """Before a token is shown or a step trained: the audit's share and its limit."""
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": f"{Q} {i}", "chosen": f"{Q} {i} yes", "rejected": f"{Q} {i} no"} for i in range(30)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert main(["preview", "model=tiny_byte", "dataset=files", f"dataset.path={path}", f"cache_root={cache}"]) == 2
    said = capsys.readouterr().err
    assert "100.0% of the pairs repeat their prompt" in said and "audit.stop.prompt_in_answer=0.5" in said
