"""The one error a person can cause: wrong usage, configuration or data."""

from pathlib import Path


class UsageError(ValueError):
    """One line that names the rule, the value and the key (or file and line) to change; exit code 2."""


def check_folder(key: str, path: str) -> None:
    """Raise UsageError where `path` can only mean a local folder and there is none."""
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise UsageError(f"{key}={path}: no such folder")
