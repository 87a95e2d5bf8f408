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
    if not 1 <= len(name) <= 128 or re.search(r"[/\\#?%:]", name):
        raise UsageError(f"{key}={name!r}: must have 1 to 128 characters and none of / \\ # ? % :")
    return name
