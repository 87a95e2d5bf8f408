"""Preference pairs from your own file or folder: rows with prompt, chosen, rejected and, if you like, id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.data.pair import Pair, Source, Split, Text, content_id, distinct, hold_out
from dpo.data.rows import rows
from dpo.errors import UsageError

COLUMNS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Files(Source):
    """Pairs of `path`, evaluated on those of `eval_path` or on a share held out by the hash of the id.

    Every row must be usable: the first that is not stops with its line. Rows that repeat another word for word
    and have no id of their own are dropped and counted.
    """

    path: str
    eval_path: str | None
    eval_share: float

    def load(self) -> Split:
        read = read_pairs(Path(self.path))
        counts = {"rows": len(read)}
        pairs = distinct(read, counts)
        if self.eval_path is None:
            train, evaluation = hold_out(pairs, self.eval_share)
        else:
            read = read_pairs(Path(self.eval_path))
            counts["rows"] += len(read)
            train, evaluation = pairs, distinct(read, counts)
        return Split(train, evaluation, [pair.prompt for pair in evaluation], counts)


def read_pairs(path: Path) -> list[Pair]:
    """Every row of a file or folder as a pair; raises UsageError with file, line and rule at the first malformed.

    An id given twice is malformed.
    """
    pairs: list[Pair] = []
    given: dict[str, str] = {}
    for where, row in rows(path):
        pairs.append(to_pair(row, where, path.name))
        if row.get("id") is not None and given.setdefault(pairs[-1].id, where) != where:
            raise UsageError(f"{where}: the id {pairs[-1].id!r} is also that of {given[pairs[-1].id]}; ids are unique")
    if not pairs:
        raise UsageError(f"{path}: no rows; a data file needs at least one pair")
    return pairs


def to_pair(row: Any, where: str, source: str) -> Pair:
    """A checked pair; the id is the row's, else the hash of its texts."""
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a row must be an object with {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise UsageError(f"{where}: no {' or '.join(missing)}; the row has {', '.join(map(str, row)) or 'no columns'}")
    prompt, chosen, rejected = (to_text(row[name], f"{where}: {name}") for name in COLUMNS)
    identity = row.get("id")
    return Pair(
        content_id(prompt, chosen, rejected) if identity is None else str(identity), prompt, chosen, rejected, source
    )


def to_text(value: Any, where: str) -> Text:
    """A non-empty string, or a non-empty list of messages with text role and content."""
    if isinstance(value, str):
        if not value.strip():
            raise UsageError(f"{where} is empty; remove or mend the row")
        return encodable(value, where)
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} is a {type(value).__name__}; must be text or a non-empty list of chat messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UsageError(f'{where} holds a message without a role; each is {{"role": ..., "content": ...}}')
        content = message.get("content")
        if not (isinstance(content, str) and content) and not (message.get("tool_calls") and not content):
            raise UsageError(f"{where} holds a {message['role']} message with empty or missing content")
        encodable(content or "", where)
    return value


def encodable(text: str, where: str) -> str:
    """The text; raises UsageError where it holds half of a surrogate pair, which no tokenizer can read."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where} holds a lone surrogate at character {error.start}; mend the row") from error
    return text
