"""Names of runs that say what a sweep varied; what makes them unique is the id that follows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 118
"""Characters of a name, all ASCII: with an id it fits W&B (128), with a copy's marks a file system (255)."""


def run_name(settings: Mapping[str, str], plain: dict[str, Any]) -> str:
    """What was swept, such as beta0.1-ipo-seed2 (the seed last), cut to LONGEST; "" where nothing was."""
    keys = sorted(settings, key=lambda key: key == "seed")
    titles = [short(key) for key in keys]
    titles = [
        key.lstrip("+~").replace(".", "_") if titles.count(title) > 1 else title
        for key, title in zip(keys, titles, strict=True)
    ]
    parts = [label(key, title, settings[key], plain) for key, title in zip(keys, titles, strict=True)]
    parts = [part for part in parts if part]
    whole = "-".join(parts)
    if len(whole) <= LONGEST:
        return whole
    seed = parts[-1] if keys[-1] == "seed" else ""
    return "-".join(part for part in (whole[: LONGEST - len(seed) - 1].rstrip("-"), seed) if part)


def short(key: str) -> str:
    """The last word of a key that says something: beta of beta.value, lr of optim.lr."""
    words = key.lstrip("+~").split(".")
    return words[-2] if words[-1] == "value" and len(words) > 1 else words[-1]


def label(key: str, title: str, text: str, plain: dict[str, Any]) -> str:
    """A key and its value as a part of a file's name; an option of a group stands for itself."""
    value: Any = plain
    for word in key.lstrip("+~").split("."):
        value = value.get(word, text) if isinstance(value, dict) else text
    if isinstance(value, dict | list) or ("." not in key and key != "seed"):
        value = text
    if isinstance(value, float):
        value = f"{value:g}"
    if value is None:
        value = "none"
    word = str(value).rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"[^A-Za-z0-9.+_-]+", "_", word).strip("_")[:40]
    return name if "." not in key and key != "seed" else f"{title}{name}"
