"""Published preference sets: from the hub or from a local copy, with a stated rule for rows that are no pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo.data.folders import parts_of
from dpo.data.messages import columns_of, encodable, messages, number, speaker, with_tools
from dpo.data.pair import TOOLS, Message, Pair, Source, Split, Text, content_id, distinct, hold_out
from dpo.data.rows import Row, first, hub_rows, rows
from dpo.errors import UsageError
from dpo.ranges import HeldOut, Rows


@dataclass(frozen=True)
class Draft:
    """A row read as a pair, with the names of what is wrong with it (set by set; blank sides are found here)."""

    prompt: Text
    chosen: Text
    rejected: Text
    faults: tuple[str, ...] = ()

    def with_tools(self, row: dict[str, Any], where: str) -> Draft:
        """The draft with the row's tools, where it has a column of them."""
        texts = with_tools((self.prompt, self.chosen, self.rejected), row.get(TOOLS), where)
        return Draft(*texts, self.faults)

    def all_faults(self) -> list[str]:
        """The faults, and empty_prompt, empty_chosen, empty_rejected for sides without any text."""
        sides = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        return [*self.faults, *(f"empty_{name}" for name, text in sides.items() if blank(text))]


@dataclass(frozen=True)
class Published(Source):
    """A set whose rows a subclass reads with `draft`. A row with any fault is dropped and counted by its faults.

    From the hub unless `path` is given. Evaluation is `eval_path`; else the split `eval_split` of the hub set or
    of the folder `path` (files that have the split in their names); else a share held out by the hash of the id.
    Of a folder whose files name splits only those of `train_split` are trained on, and never `eval_path`.
    """

    hub: str | None
    subset: str | None
    revision: str | None
    train_split: str
    eval_split: str | None
    path: str | None
    eval_path: str | None
    eval_share: HeldOut
    max_rows: Rows | None
    long_prompts: Literal["drop", "refuse"]

    @property
    def drops_long_prompts(self) -> bool:
        return self.long_prompts == "drop"

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        """One row as a pair; raises UsageError naming `where` for a row of another format."""
        raise NotImplementedError

    def drafts(self, rows: Iterator[Row], counts: Counter[str]) -> Iterator[tuple[str, Draft]]:
        """Every row as a draft; a set whose pairs are not its rows overrides this."""
        for where, row in rows:
            if not isinstance(row, dict):
                raise UsageError(f"{where}: a row must be an object with named columns")
            yield where, self.draft(row, where)

    def hub_options(self) -> dict[str, Any]:
        """What `datasets.load_dataset` is told beside id, split and revision."""
        return {} if self.subset is None else {"name": self.subset}

    def load(self) -> Split:
        counts: Counter[str] = Counter(dict.fromkeys(("rows", "dropped", "empty_chosen", "empty_rejected"), 0))
        train_rows, eval_rows = self.sources()
        pairs = self.pairs(train_rows, counts)
        train, evaluation = hold_out(pairs, self.eval_share) if eval_rows is None else (pairs, [])
        if eval_rows is not None:
            evaluation = self.pairs(eval_rows, counts)
        if not train and counts["dropped"]:
            raise UsageError(f"{self.path or self.hub}: no row makes a usable pair; left out were {tally(counts)}")
        return Split(train, evaluation, [pair.prompt for pair in evaluation], dict(counts))

    def sources(self) -> tuple[Iterator[Row], Iterator[Row] | None]:
        """Rows to train on, and rows to evaluate on where they are a source of their own."""
        if self.hub is None and self.path is None:
            raise UsageError("dataset.path=null and dataset.hub=null: give a local file or folder, or a hub id")
        evaluation = rows(Path(self.eval_path)) if self.eval_path is not None else None
        if self.path is None and self.hub is not None:
            options = self.hub_options()
            if evaluation is None and self.eval_split is not None:
                evaluation = hub_rows(self.hub, self.eval_split, self.revision, **options)
            return hub_rows(self.hub, self.train_split, self.revision, **options), evaluation
        path = Path(str(self.path)).expanduser()
        if not path.is_dir():
            return rows(path), evaluation
        apart = None if self.eval_path is None else Path(self.eval_path)
        train_files, eval_files = parts_of(path, self.train_split, self.eval_split, apart)
        if evaluation is None and eval_files:
            evaluation = rows(path, eval_files)
        return rows(path, train_files), evaluation

    def pairs(self, rows: Iterator[Row], counts: Counter[str]) -> list[Pair]:
        """The usable pairs of some rows; `counts` gains rows, dropped, and every fault."""
        name = type(self).__module__.rsplit(".", 1)[1]

        def usable() -> Iterator[Pair]:
            for _, draft in self.drafts(first(rows, self.max_rows), counts):
                counts["rows"] += 1
                faults = draft.all_faults()
                if faults:
                    counts["dropped"] += 1
                    counts.update(faults)
                    continue
                texts = draft.prompt, draft.chosen, draft.rejected
                yield Pair(content_id(*texts), *texts, name)

        return distinct(usable(), counts)


def tally(counts: Counter[str]) -> str:
    """What was counted beside rows and dropped, in words."""
    return ", ".join(
        f"{number} of {counts['rows']} for {name}"
        for name, number in counts.items()
        if number and name not in ("rows", "dropped")
    )


def column(row: dict[str, Any], name: str, where: str, kinds: type | tuple[type, ...] = str) -> Any:
    """A value of a row; raises UsageError naming the columns that there are, or the type that was found."""
    if name not in row:
        raise UsageError(f"{where}: no column {name}; the row has {columns_of(row)}")
    value = row[name]
    if value is None and kinds in (str, (str, list)):
        return ""
    if not isinstance(value, kinds):
        expected = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise UsageError(f"{where}: column {name} is a {type(value).__name__}; must be {expected}")
    return encodable(value, f"{where}: column {name}") if isinstance(value, str) else value


def score(row: dict[str, Any], name: str, where: str) -> float:
    """A finite number of a row."""
    return number(column(row, name, where, object), f"{where}: column {name}")


def conversation(row: dict[str, Any], name: str, where: str) -> list[Message]:
    """A column that holds chat messages, each with a role; content may be empty."""
    return messages(column(row, name, where, list), f"{where}: {name}")


def last_turns(chosen: list[Message], rejected: list[Message]) -> Draft:
    """Two conversations that differ in their last turn: the history before it is the prompt.

    Faults: prompt_differs (other histories), not_assistant (a last turn by somebody else).
    """
    faults = ["prompt_differs"] if chosen[:-1] != rejected[:-1] else []
    return Draft(chosen[:-1], chosen[-1:], rejected[-1:], (*faults, *other_speakers(chosen, rejected)))


def other_speakers(chosen: Text, rejected: Text) -> list[str]:
    """not_assistant where the last turn of an answer is somebody else's."""
    return ["not_assistant"] if speaker(chosen) or speaker(rejected) else []


def blank(text: Text) -> bool:
    """Whether there is nothing to read: no characters but white space, and no tool call."""
    if isinstance(text, str):
        return not text.strip()
    return not any((message.get("content") or "").strip() or message.get("tool_calls") for message in text)
