"""A run of the past: its settings, without the code that they ask for, and its folders, wherever they lie now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dpo.config import Config, parse
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.saved_config import read_saved
from dpo.whereabouts import find, is_path

MODEL_FILES = ("config.json", "adapter_config.json")
TRUSTED: ContextVar[bool] = ContextVar("TRUSTED", default=False)
"""Whether this very command lets code run that came with a model (--trust-remote-code)."""


def settings(run: RunDir, **changed: Any) -> Config:
    """The configuration of a run, its relative paths to be read `at_home`; `changed` keys are replaced.

    A cache or model folder that has moved is named where it is now. Raises UsageError where the run asks for code that
    came with a model and this command does not allow it.
    """
    plain = read_saved(run.config)
    refuse_code(plain, run)
    plain["cache_root"] = str(cache_of(run, plain))
    for group in ("model", "reference"):
        path = (plain.get(group) or {}).get("path")
        if path and not (home_of(run) / Path(path).expanduser()).is_dir():
            plain[group] = plain[group] | {"path": now(run, path, "start" if group == "model" else "reference")}
    for name, value in changed.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    with at_home(run):
        return parse(plain)


def refuse_code(plain: dict[str, Any], run: RunDir) -> None:
    """Raise UsageError where settings ask for remote code that this command does not allow: a look runs no code."""
    if (plain.get("model") or {}).get("trust_remote_code") and not TRUSTED.get():
        raise UsageError(
            f"{run.config}: asks to run Python code that comes with its model (model.trust_remote_code=true); "
            "give --trust-remote-code if you trust it"
        )


def home_of(run: RunDir) -> Path:
    """The folder that a run's relative paths begin at: where its command was given, also after that was moved."""
    path, root = run.path.resolve(), Path(read_saved(run.config)["output_root"])
    recorded = provenance(run).get("working_directory")
    if recorded and Path(recorded).is_dir() and (root.is_absolute() or path.is_relative_to(recorded)):
        return Path(recorded)
    if root.is_absolute():
        return Path.cwd()
    return path.parents[min(len(root.parts) + 1, len(path.parents) - 1)]  # <home>/<output root>/<sweep>/<run>


@contextmanager
def at_home(run: RunDir) -> Iterator[None]:
    """Within it relative paths mean what they meant to the run's own command."""
    with chdir(home_of(run)):
        yield


def cache_of(run: RunDir, plain: dict[str, Any]) -> Path:
    """The cache that a run was made with; where it is gone, the place where it was."""
    recorded = home_of(run) / plain["cache_root"]
    return find(recorded, run.path) or recorded


def start_of(run: RunDir) -> str:
    """The weights that a run began from: a folder, wherever it is now, or a hub id; UsageError for a lost folder."""
    return now(run, provenance(run)["start"], "start")


def now(run: RunDir, path: str, role: str) -> str:
    """Where the model folder is that a run read as `path`; hub ids as they are."""
    recorded = home_of(run) / Path(path).expanduser()
    if not is_path(path) and not recorded.is_dir():
        return path
    found = find(recorded, run.path, MODEL_FILES)
    if found is None:
        facts = provenance(run)
        known = facts.get(f"{role}_hash") if role != "start" or facts.get("start") == path else None
        again = f", or build it again: dpo reproduce {run.path}" if recorded.parent.name == "models" else ""
        raise UsageError(
            f"{run.path}: its {role} is gone: {f'the weights {known[:16]} ' if known else ''}in {recorded}; "
            f"bring the folder back{again}"
        )
    return str(found)


def provenance(run: RunDir) -> dict[str, Any]:
    """provenance.json; empty for a run that has none."""
    return dict(run.read("provenance")) if (run.path / "provenance.json").exists() else {}
