"""Tables whose cells know the runs behind them. Everything that came from data is escaped on the way out.

HTML classes: t-table, t-caption, t-head, t-cell, t-estimate, t-blank, t-interval, t-n, t-verdict, t-notes. Each cell
has data-runs (ids, parted by spaces), a title in words, and data-sort (a number, or a text in lower case).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpo.results.estimate import Estimate
from dpo.results.foreign import in_html, in_markdown
from dpo.terminal import visible


@dataclass(frozen=True)
class Cell:
    """An estimate, a text, a number, or nothing (then `note` says why); `runs` are the ids behind it."""

    content: Estimate | str | float | int | None
    runs: tuple[str, ...] = ()
    note: str = ""
    compared: bool = False
    """Whether the estimate is a difference, whose verdict belongs to it."""

    @property
    def text(self) -> str:
        """The cell in plain words: value, interval, n."""
        if isinstance(self.content, Estimate):
            words = f"{self.content.text(signed=self.compared)} ({self.content.footing})"
            return f"{words}; {self.content.verdict}" if self.compared and self.content.verdict else words
        if isinstance(self.content, float):
            return f"{self.content:.6g}"
        return "" if self.content is None else visible(self.content)

    @property
    def sort(self) -> str:
        """What a column is sorted by."""
        value = self.content.value if isinstance(self.content, Estimate) else self.content
        if isinstance(value, int | float):
            return repr(float(value)) if math.isfinite(value) else ""
        return "" if value is None else value.lower()

    def html(self) -> str:
        """The cell as a td."""
        e = self.content
        kind, body = "t-text", in_html(self.text)
        if isinstance(e, Estimate):
            kind = "t-estimate"
            value, _, ends = e.text(signed=self.compared).partition(" ")
            body = f'{in_html(value)} <span class="t-interval">{in_html(ends or "no interval")}</span>'
            body += f' <span class="t-n">n={e.n}</span>'
            if self.compared and e.verdict:
                body += f' <span class="t-verdict">{in_html(e.verdict)}</span>'
        elif e is None:
            kind = "t-blank"
        elif not isinstance(e, str):
            kind = "t-number"
        said = [
            self.note,
            e.footing if isinstance(e, Estimate) else "",
            f"runs: {' '.join(self.runs)}" if self.runs else "",
        ]
        title = in_html("; ".join(part for part in said if part))
        attributes = (
            f'class="t-cell {kind}" data-sort="{in_html(self.sort)}" data-runs="{in_html(" ".join(self.runs))}"'
        )
        return f'<td {attributes} title="{title}">{body}</td>'


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; `name` is unique on a page, `notes` are sentences below the table."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "a cell for every column"

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of every run behind the table."""
        return tuple(dict.fromkeys(run for row in self.rows for cell in row for run in cell.runs))

    def _repr_html_(self) -> str:
        head = "".join(f'<th class="t-head" scope="col">{in_html(column)}</th>' for column in self.columns)
        body = "\n".join(f"<tr>{''.join(cell.html() for cell in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p>{in_html(note)}</p>" for note in self.notes)
        return (
            f'<table class="t-table" data-name="{in_html(self.name)}">\n'
            f'<caption class="t-caption">{in_html(self.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
            + (f'\n<div class="t-notes">{notes}</div>' if notes else "")
        )

    def _repr_markdown_(self) -> str:
        lines = [plain(self.caption), "", "| " + " | ".join(map(plain, self.columns)) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        for row in self.rows:
            cells = (plain(cell.text) if cell.content is not None else blank_mark(cell) for cell in row)
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(f"\n{plain(note)}" for note in self.notes)]) + "\n"

    def to_frame(self) -> pd.DataFrame:
        """Plain values: an estimate's column is followed by its low, high and n; the runs' ids come last."""
        return pd.DataFrame([self._record(row) for row in self.rows])

    def _record(self, row: Sequence[Cell]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for column, cell in zip(self.columns, row, strict=True):
            e = cell.content
            if isinstance(e, Estimate):
                record |= {column: e.value, f"{column} low": e.low, f"{column} high": e.high, f"{column} n": e.n}
                if cell.compared:
                    record |= {f"{column} p": e.p, f"{column} p (Holm)": e.adjusted, f"{column} shown": e.shown}
            else:
                record[column] = e
        return record | {"runs": " ".join(dict.fromkeys(run for cell in row for run in cell.runs))}


def plain(text: str) -> str:
    """A text that Markdown shows as it stands, on one line."""
    return in_markdown(" ".join(text.split()))


def blank_mark(cell: Cell) -> str:
    """A blank cell of Markdown, which has no hover: its reason in short."""
    return f"({plain(cell.note)})" if cell.note else ""
