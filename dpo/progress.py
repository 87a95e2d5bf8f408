"""Progress bars and lines for people, on stderr; quiet enough for a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(items: Iterable[Any] | None, title: str, unit: str, **options: Any) -> Any:
    """A progress bar: live in a terminal, a line every ten seconds elsewhere; without items, moved by its update()."""
    pause = 0.1 if sys.stderr.isatty() else 10
    return tqdm(items, desc=title, unit=unit, mininterval=pause, leave=False, **options)


def say(text: str) -> None:
    """A line above any bar."""
    tqdm.write(text, file=sys.stderr)
