"""A pair as three strings: the prompt opened for an answer, and what stands behind it for either answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dpo.data.ends import close
from dpo.data.messages import roles
from dpo.data.pair import TOOLS, Message, Pair, Text
from dpo.data.templates import apply_template, head, render, turn
from dpo.errors import UsageError
from dpo.progress import remark

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message that hold reasoning apart from its content."""
THOUGHT = "</think>"


def texts(pair: Pair, tokenizer: Any) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) as strings; chat messages go through the tokenizer's template.

    The answers are cut behind the token that ends them (see ends.py). Raises UsageError for an answer of several
    turns: what others say in it must not be learned.
    """
    if isinstance(pair.prompt, str):
        return pair.prompt, str(pair.chosen), str(pair.rejected)
    opened = render(pair.prompt, tokenizer, pair.id)
    chosen, rejected = (
        apply_template([*pair.prompt, said(pair, answer)], tokenizer, pair.id, answered=True)
        for answer in (pair.chosen, pair.rejected)
    )
    prompt = head(pair.prompt, opened, (chosen, rejected), tokenizer, pair.id)
    return prompt, close(chosen[len(prompt) :], tokenizer), close(rejected[len(prompt) :], tokenizer)


def said(pair: Pair, answer: Text) -> Message:
    """The one turn of the assistant that an answer is."""
    if isinstance(answer, str):
        return turn(answer)
    if len(answer) != 1:
        raise UsageError(
            f"pair {pair.id!r}: an answer holds several turns ({roles(answer)}); an answer is one turn of the "
            "assistant: move the turns before it into the prompt"
        )
    return answer[0]


def report_left_out(pairs: Sequence[Pair], rendered: Sequence[tuple[str, str, str]], tokenizer: Any) -> None:
    """Raise UsageError where the chat template leaves tools or their calls out, and say where it leaves reasoning out.

    A call or a tool counts as written when its name stands in the text.
    """
    lost: dict[str, list[str]] = {"tool_calls": [], TOOLS: [], "reasoning": []}
    for pair, (prompt, *answers) in zip(pairs, rendered, strict=True):
        if isinstance(pair.prompt, str):
            continue
        for what in {
            *missing(pair.prompt, prompt),
            *(
                what
                for side, text in zip((pair.chosen, pair.rejected), answers, strict=True)
                for what in gone(side, text)
            ),
        }:
            lost[what].append(pair.id)
    name = tokenizer.name_or_path
    for what in ("tool_calls", TOOLS):
        if lost[what]:
            raise UsageError(
                f"{len(lost[what])} of {len(pairs)} pairs hold {what} that the chat template of {name!r} leaves out "
                f"(first: pair {lost[what][0]!r}); give model.chat_template=<Jinja file that writes them>, or take "
                "them out of the rows"
            )
    if lost["reasoning"]:
        remark(
            f"in {len(lost['reasoning'])} of {len(pairs)} pairs the chat template of {name!r} leaves an answer's "
            "reasoning out, so only what follows it is trained; model.chat_template=<Jinja file> can write it"
        )


def missing(messages: Sequence[Message], text: str) -> Iterator[str]:
    """tool_calls, tools: what some messages hold and their rendering does not name."""
    for message in messages:
        for what in ("tool_calls", TOOLS):
            calls = message.get(what)
            if isinstance(calls, list) and any(name not in text for name in map(called, calls)):
                yield what


def gone(answer: Text, text: str) -> Iterator[str]:
    """tool_calls, reasoning: what an answer holds and its rendering does not."""
    if isinstance(answer, str):
        answer = [turn(answer)]
    yield from missing(answer, text)
    for message in answer:
        thoughts = [message[name] for name in REASONING if isinstance(message.get(name), str)]
        before, mark, _ = (message.get("content") or "").rpartition(THOUGHT)
        thoughts += [before.removeprefix("<think>")] if mark else []
        if any(thought.strip() not in text for thought in thoughts):
            yield "reasoning"


def called(call: Any) -> str:
    """The name of a tool or of the one that is called; "" where it has none."""
    inner = call.get("function", call) if isinstance(call, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""
