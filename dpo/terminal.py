"""The one door to the terminal: whatever a verb prints goes through here, and nothing foreign gets out raw.

Foreign is what this package did not write itself: a model's answers, data, prompts, names of files and runs, the texts
of errors, a server's replies. Control characters are shown as \\x1b, never obeyed; no markup is read from any text.
stdout holds what a command was asked for, stderr remarks and progress. What a stream cannot encode is shown as an
escape; `dpo.streams` sees to readers that go.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Piece = str | tuple[str, str]
"""A text, or a text with a style of rich's such as "bold"."""

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1 (the eight-bit escape sequences)
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"  # what turns or hides the text around it
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"  # line ends, marks, halves, tags
)


def visible(text: object) -> str:
    """The text with every character that acts instead of being seen written as an escape; newlines and tabs stay."""
    return HIDDEN.sub(escape, str(text).replace("\r\n", "\n"))


def escape(found: re.Match[str]) -> str:
    r"""A character as \x1b, \u202e or \U000e0041."""
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def line(text: object) -> str:
    """`visible` on one line."""
    return " ".join(part for part in map(str.strip, visible(text).split("\n")) if part)


def fitting(text: str, stream: IO[str]) -> str:
    """The text with escapes for what the stream's encoding has no bytes for."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write(stream: IO[str] | None, text: str) -> None:
    """Write and flush; what the stream does not take is lost, as `dpo.streams` has it for the process's own."""
    if stream is None or stream.closed:
        return
    with suppress(OSError):
        stream.write(fitting(text, stream))
        stream.flush()


def prepare_streams() -> None:
    """What a library prints by itself never fails for want of a character either."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def result(*pieces: Piece) -> None:
    """Lines on stdout: what the command was asked for."""
    show(sys.stdout, *pieces)


def path_line(path: object) -> None:
    """A path as a line of its own on stdout: the last one, which scripts read."""
    write(sys.stdout, line(path) + "\n")


def as_json(value: Any) -> None:
    """A value as indented JSON in ASCII on stdout, null for what is not finite; nothing in it acts on a terminal."""
    write(sys.stdout, json.dumps(finite(value), indent=2, allow_nan=False).replace("\x7f", "\\u007f") + "\n")


def finite(value: Any) -> Any:
    """The value with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell(text: object) -> None:
    """A line on stderr; `dpo.progress.say` where there may be bars."""
    write(sys.stderr, line(text) + "\n")


def fault(text: object) -> None:
    """`dpo: ...` as one line on stderr."""
    write(sys.stderr, f"dpo: {line(text)}\n")


def show(stream: IO[str], *pieces: Piece) -> None:
    """Pieces one after the other, coloured in a terminal, then a newline."""
    if not is_terminal(stream):
        write(stream, "".join(visible(words_of(piece)) for piece in pieces) + "\n")
        return
    console(stream).print(styled(*pieces), soft_wrap=True)


def words_of(piece: Piece) -> str:
    """A piece without its style."""
    return piece if isinstance(piece, str) else piece[0]


def styled(*pieces: Piece) -> Text:
    """Pieces as rich's text, the only way in which a text gets to rich."""
    from rich.text import Text

    made = Text()
    for piece in pieces:
        made.append(visible(words_of(piece)), style="" if isinstance(piece, str) else piece[1])
    return made


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a person looks at the stream."""
    return stream is not None and not stream.closed and stream.isatty()


def console(stream: IO[str]) -> Console:
    """rich on a terminal, without its markup."""
    from rich.console import Console

    return Console(file=stream, markup=False, emoji=False, highlight=False)


class Sheet:
    """A table: rows of texts under titles; `right` names the columns of numbers, `long` those of running text."""

    def __init__(
        self, title: str, columns: Sequence[str], right: Sequence[str] = (), long: Sequence[str] = (), foot: str = ""
    ) -> None:
        self.title, self.columns, self.foot = title, list(columns), foot
        self.right, self.long = set(right), set(long)
        self.rows: list[list[str]] = []

    def add(self, *cells: object) -> None:
        """One row, a cell for each column."""
        assert len(cells) == len(self.columns), "a cell for every column"
        self.rows.append([str(cell) for cell in cells])

    def show(self, stream: IO[str] | None = None) -> None:
        """On stdout: drawn in a terminal; elsewhere whole lines, nothing cut or folded, for grep and awk."""
        stream = stream or sys.stdout
        if is_terminal(stream):
            console(stream).print(self.drawn())
        else:
            write(stream, "".join(f"{text}\n" for text in self.plain()))

    def drawn(self) -> Table:
        """The table as rich draws it; long columns share the width, and every cell folds instead of being cut."""
        from rich.table import Table

        title, foot = (styled(text) if text else None for text in (self.title, self.foot))
        table = Table(title=title, title_justify="left", caption=foot, show_lines=bool(self.long))
        for name in self.columns:
            table.add_column(
                styled(name),
                justify="right" if name in self.right else "left",
                overflow="fold",
                ratio=1 if name in self.long else None,
            )
        for row in self.rows:
            table.add_row(*map(styled, row))
        return table

    def plain(self) -> list[str]:
        """Lines of aligned columns, two spaces apart; where there are long texts, a paragraph for each cell."""
        from rich.cells import cell_len

        head = [line(self.title)] if self.title else []
        foot = [line(self.foot)] if self.foot else []
        if self.long:
            pairs = (pair for row in self.rows for pair in zip(self.columns, row, strict=True))
            return [*head, *(f"{line(name)}: {visible(cell)}" for name, cell in pairs), *foot]
        cells = [[line(cell) for cell in row] for row in [self.columns, *self.rows]]
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            padded = []
            for name, cell, width in zip(self.columns, row, widths, strict=True):
                space = " " * (width - cell_len(cell))
                padded.append(space + cell if name in self.right else cell + space)
            lines.append("  ".join(padded).rstrip())
        return [*head, *lines, *foot]
