"""Values of a row as texts, chat messages, ids and tools: what a pair can hold, or one line that says why not."""

from __future__ import annotations

import json
import math
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from dpo.data.pair import TOOLS, Message, Text, asked
from dpo.errors import UsageError

DEEPEST = 64
"""Levels that lists and objects may be nested in a message."""
AS_TEXT = (date, time, timedelta, Decimal)
"""What Parquet may hold and JSON may not; kept as its text."""


def shown(name: Any) -> str:
    """A name that a row brings (of a column, a role), fit for one line of a message."""
    text = str(name)
    return text if text.isprintable() and 0 < len(text) <= 40 else repr(text[:40])


def columns_of(row: dict[Any, Any]) -> str:
    """The names of a row's columns, of very many the first."""
    names = [shown(name) for name in list(row)[:20]]
    return ", ".join(names + ["..."] * (len(row) > 20)) or "no columns"


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value if JSON can hold it and a tokenizer can read it; dates and decimals become their text.

    Raises UsageError for half a surrogate pair, bytes, names that are no text, and nesting past DEEPEST.
    """
    if isinstance(value, str):
        return encodable(value, where)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, AS_TEXT):
        return str(value)
    if depth == DEEPEST:
        raise UsageError(f"{where} is nested more than {DEEPEST} levels deep; mend the row")
    if isinstance(value, list | tuple):
        return [plain(item, where, depth + 1) for item in value]
    if isinstance(value, dict):
        return {label(name, where): plain(item, where, depth + 1) for name, item in value.items()}
    raise UsageError(f"{where} holds a {type(value).__name__}; must be text, numbers, lists and objects")


def label(name: Any, where: str) -> str:
    """A name inside an object."""
    if not isinstance(name, str):
        raise UsageError(f"{where} has an object whose name is a {type(name).__name__}; must be text")
    return encodable(name, where)


def encodable(text: str, where: str) -> str:
    """The text; raises UsageError where it holds half of a surrogate pair, which no tokenizer can read."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where} holds a lone surrogate at character {error.start}; mend the row") from error
    return text


def to_id(value: Any, where: str) -> str:
    """A pair's own id: text or a number, as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not math.isfinite(finite(value)):
        raise UsageError(f"{where}: id is {said(value)}; must be text or a number")
    return encodable(str(value), f"{where}: id")


def finite(value: Any) -> float:
    """0 for text and whole numbers of any size, a float as it is."""
    return value if isinstance(value, float) else 0.0


def said(value: Any) -> str:
    """A value's type, or the number itself, for a message."""
    return str(value) if isinstance(value, float | bool) else f"a {type(value).__name__}"


def number(value: Any, where: str) -> float:
    """A finite number."""
    if isinstance(value, bool | int | float | Decimal):
        try:
            if math.isfinite(result := float(value)):
                return result
        except (OverflowError, ValueError):
            pass
        raise UsageError(f"{where} is no finite number of usual size; mend the row")
    raise UsageError(f"{where} is a {type(value).__name__}; must be a number")


def messages(value: list[Any], where: str) -> list[Message]:
    """Chat messages, each with a text role; content is text or missing. Content in typed parts becomes their text."""
    made = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UsageError(f'{where} holds a message without a role; each is {{"role": ..., "content": ...}}')
        message = plain(message, where)
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part_text(part, where) for part in message["content"])
        if not isinstance(message.get("content"), str | None):
            raise UsageError(
                f"{where} holds a {shown(message['role'])} message whose content is {said(message['content'])}"
            )
        if message.get("tool_calls"):
            message["tool_calls"] = unpadded(message["tool_calls"])
        made.append(message)
    return made


def part_text(part: Any, where: str) -> str:
    """The text of one typed part of a message's content."""
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise UsageError(
        f"{where} holds a message with a content part of type {shown(kind)}; only text is read: "
        'make content text, or parts of {"type": "text", "text": ...}'
    )


def unpadded(value: Any) -> Any:
    """The value without the nulls inside its objects: Parquet and `datasets` pad every call to the fields of all."""
    if isinstance(value, list):
        return [unpadded(item) for item in value]
    if isinstance(value, dict):
        return {name: unpadded(item) for name, item in value.items() if item is not None}
    return value


def to_text(value: Any, where: str) -> Text:
    """A non-empty string, or a non-empty list of messages that say or call something."""
    if isinstance(value, str):
        if not value.strip():
            raise UsageError(f"{where} is empty; remove or mend the row")
        return encodable(value, where)
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} is a {type(value).__name__}; must be text or a non-empty list of chat messages")
    made = messages(value, where)
    for message in made:
        if not message.get("content") and not message.get("tool_calls"):
            raise UsageError(f"{where} holds a {shown(message['role'])} message with empty or missing content")
    return made


def with_tools(texts: tuple[Text, Text, Text], tools: Any, where: str) -> tuple[Text, Text, Text]:
    """Prompt, chosen, rejected with the tools of the row in the prompt's first message, for the chat template.

    `tools` are definitions, or JSON of them; none of them leaves the texts as they are.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: tools is text that is no JSON; must be a list of tool definitions") from error
    if not tools:
        return texts
    tools = unpadded(plain(tools, f"{where}: tools"))
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UsageError(f"{where}: tools is {said(tools)}; must be a list of tool definitions, or JSON of one")
    prompt = asked(*texts)
    if not isinstance(prompt, list):
        raise UsageError(f"{where}: tools need a prompt in chat messages, which a template can write them into")
    return ([prompt[0] | {TOOLS: tools}, *prompt[1:]] if prompt else prompt), *texts[1:]


def one_turn(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text] | None:
    """(prompt, chosen, rejected) with answers of one turn; None where an answer holds turns that are no prompt.

    Answers in messages may be whole conversations that repeat the prompt, as in UltraFeedback: what both hold before
    their last turn is the prompt then. It repeats a prompt in text when one of its user's turns is that text, and a
    prompt in messages when either begins or ends with the other.
    """
    histories = [side[:-1] for side in (chosen, rejected) if isinstance(side, list)]
    if not any(histories):
        return prompt, chosen, rejected
    history = histories[0]
    if any(other != history for other in histories) or any(isinstance(side, str) for side in (chosen, rejected)):
        return None
    if isinstance(prompt, str):
        users = [content for role, content in map(line, history) if role == "user"]
        return (history, chosen[-1:], rejected[-1:]) if prompt.strip() in users else None
    before, now = [line(turn) for turn in history], [line(turn) for turn in prompt]
    if now and now in (before[: len(now)], before[-len(now) :]):
        tools = {name: item for name, item in prompt[0].items() if name == TOOLS}
        return [history[0] | tools, *history[1:]], chosen[-1:], rejected[-1:]
    return (prompt, chosen[-1:], rejected[-1:]) if now[-len(before) :] == before else None


def line(turn: Message) -> tuple[str, str]:
    """(role, content) of a turn, to compare it by."""
    return turn["role"], (turn.get("content") or "").strip()


def speaker(answer: Text) -> str | None:
    """The role of an answer's last turn where it is another's than the assistant's."""
    role = answer[-1]["role"] if isinstance(answer, list) and answer else "assistant"
    return None if role == "assistant" else shown(role)


def roles(answer: Text) -> str:
    """The roles of an answer's turns, for a message."""
    return ", ".join(shown(turn["role"]) for turn in answer[:9]) if isinstance(answer, list) else "text"
