"""Preference pairs from your own file or folder: rows with prompt, chosen, rejected and, if you like, id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.data.folders import one_part
from dpo.data.messages import columns_of, one_turn, roles, speaker, to_id, to_text, with_tools
from dpo.data.pair import Pair, Source, Split, content_id, distinct, hold_out
from dpo.data.rows import rows
from dpo.errors import UsageError
from dpo.ranges import HeldOut

COLUMNS = ("prompt", "chosen", "rejected")
WHOLE = "dataset=hub dataset.prompt=null"
"""The settings under which chosen and rejected are whole conversations."""


@dataclass(frozen=True)
class Files(Source):
    """Pairs of `path`, evaluated on those of `eval_path` or on a share held out by the hash of the id.

    A folder's files are one set: `eval_path` may be one of them, which is then not trained on, but where their names
    say several splits (train, validation, test) the folder is refused.

    Every row must be usable: the first that is not stops with its line. Rows that repeat another word for word
    and have no id of their own are dropped and counted.
    """

    path: str
    eval_path: str | None
    eval_share: HeldOut

    def load(self) -> Split:
        read = read_pairs(Path(self.path), None if self.eval_path is None else Path(self.eval_path))
        counts = {"rows": len(read)}
        pairs = distinct(read, counts)
        if self.eval_path is None:
            train, evaluation = hold_out(pairs, self.eval_share)
        else:
            read = read_pairs(Path(self.eval_path))
            counts["rows"] += len(read)
            train, evaluation = pairs, distinct(read, counts)
        return Split(train, evaluation, [pair.prompt for pair in evaluation], counts)


def read_pairs(path: Path, apart: Path | None = None) -> list[Pair]:
    """Every row of a file or folder as a pair; raises UsageError with file, line and rule at the first malformed.

    An id given twice is malformed. Of a folder the files at or below `apart` are left out; what remains may not
    name several splits.
    """
    pairs: list[Pair] = []
    given: dict[str, str] = {}
    for where, row in rows(path, one_part(path, apart) if path.is_dir() else None):
        pairs.append(to_pair(row, where, path.name))
        if row.get("id") is not None and given.setdefault(pairs[-1].id, where) != where:
            raise UsageError(f"{where}: the id {pairs[-1].id!r} is also that of {given[pairs[-1].id]}; ids are unique")
    if not pairs:
        raise UsageError(f"{path}: no rows; a data file needs at least one pair")
    return pairs


def to_pair(row: Any, where: str, source: str) -> Pair:
    """A checked pair; the id is the row's, else the hash of its texts. Answers that repeat the prompt lose it."""
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a row must be an object with {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        hint = "" if missing != ["prompt"] else "; if chosen and rejected contain the prompt, set " + WHOLE
        raise UsageError(f"{where}: no {' or '.join(missing)}; the row has {columns_of(row)}{hint}")
    prompt, chosen, rejected = (to_text(row[name], f"{where}: {name}") for name in COLUMNS)
    apart = one_turn(prompt, chosen, rejected)
    if apart is None:
        raise UsageError(
            f"{where}: chosen and rejected hold several turns ({roles(chosen)} and {roles(rejected)}); an answer is "
            "one turn of the assistant: move the turns before it into the prompt, or, if they are whole conversations "
            f"that contain the prompt, set {WHOLE}"
        )
    for name, side in zip(COLUMNS[1:], apart[1:], strict=True):
        if other := speaker(side):
            raise UsageError(f"{where}: {name} is a turn of the {other}; an answer is a turn of the assistant")
    texts = with_tools(apart, row.get("tools"), where)
    identity = row.get("id")
    return Pair(content_id(*texts) if identity is None else to_id(identity, where), *texts, source)
