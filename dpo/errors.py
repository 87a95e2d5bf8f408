"""The one error a person can cause: wrong usage, configuration or data."""

import re
from pathlib import Path


class UsageError(ValueError):
    """One line that names the rule, the value and the key (or file and line) to change; exit code 2."""


def first_line(error: BaseException) -> str:
    """The first line of a library's message, its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_folder(key: str, path: str) -> None:
    """Raise UsageError where `path` can only mean a local folder and there is none."""
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise UsageError(f"{key}={path}: no such folder")


def check_project(key: str, name: str) -> str:
    """The name; raises UsageError where W&B cannot have a project that is called so."""
    if not 1 <= len(name) <= 128 or not name.isprintable() or re.search(r"[/\\#?%:]", name):
        raise UsageError(f"{key}={name!r}: must have 1 to 128 characters and none of / \\ # ? % :")
    return name


def check_word(key: str, word: str) -> str:
    """The name of a W&B group or entity; raises UsageError where W&B cannot have it."""
    if not 1 <= len(word) <= 128 or not word.isprintable() or (key.lower().endswith("entity") and " " in word):
        raise UsageError(f"{key}={word!r}: must have 1 to 128 characters, in one line, and an entity no spaces")
    return word


def check_tags(key: str, tags: list[str]) -> list[str]:
    """The tags; raises UsageError for one that W&B cannot have."""
    for tag in tags:
        if not 1 <= len(tag) <= 64 or not tag.isprintable():
            raise UsageError(f"{key}: the tag {tag!r} must have 1 to 64 characters, in one line")
    return tags
