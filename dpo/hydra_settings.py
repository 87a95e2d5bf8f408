"""Hydra's own settings: which of them mean something here, and a refusal by name of the others, wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.errors import UsageError

INSTEAD = {
    "run": "output_root=... says where runs are kept",
    "sweep": "output_root=... says where runs are kept, and a sweep's folder there has its name",
    "output_subdir": "output_root=... says where runs are kept",
    "output": "output_root=... says where runs are kept",
    "job": "a run is named by its settings, works where the command is given, and takes the environment as it is",
    "sweeper": "only Hydra's basic sweeper resumes; leave it out",
    "mode": "`dpo train -m` and `dpo sweep` run grids, `dpo train` one run",
    "callbacks": "a run's outcome is in its status.json; read it when the command ends",
    "job_logging": "a run's log is its files, and what the command prints",
    "hydra_logging": "a run's log is its files, and what the command prints",
    "verbose": "a run's log is its files, and what the command prints",
    "help": "`dpo --help` is this program's help",
}
"""What does the job of a setting of Hydra's that is not used."""
OWN = ("launcher", "searchpath", "overrides", "runtime")
"""Keys of the composed `hydra` that are used, or that Hydra writes itself."""


@dataclass(frozen=True)
class Given:
    """A command's overrides: those of Hydra's own settings apart from the program's.

    searchpath  folders with options of one's own, in the order they are searched, or None where it says nothing
    launcher    overrides of hydra/launcher, hydra.launcher and hydra.sweeper.params
    rest        the program's settings
    """

    searchpath: list[str] | None
    launcher: tuple[str, ...]
    rest: list[str]


def split(overrides: Sequence[str], grid: bool) -> Given:
    """The command's overrides sorted; raises UsageError for a setting of Hydra's that means nothing here.

    A launcher means something where there is a `grid` of runs alone.
    """
    searchpath: list[str] | None = None
    launcher, rest = [], []
    for text in overrides:
        name = text.lstrip("+~").partition("=")[0].partition("@")[0]
        if name != "hydra" and not name.startswith(("hydra.", "hydra/")):
            rest.append(text)
        elif name == "hydra.searchpath":
            searchpath = folders_of(text)
        elif text == "hydra/sweeper=basic":
            continue
        elif name.startswith(("hydra/launcher", "hydra.launcher", "hydra.sweeper.params")):
            if not grid:
                raise UsageError(f"{text}: says how the runs of a grid are started; add -m, or leave it out")
            launcher.append(text)
        else:
            raise UsageError(f"{text}: not used here: {reason(name[6:])}")
    return Given(searchpath, tuple(launcher), rest)


def reason(name: str) -> str:
    """What does the job instead of hydra.<name>."""
    first = name.replace("/", ".").split(".")[0]
    return INSTEAD.get(first, "of Hydra's own settings only hydra.searchpath and, in a grid, hydra/launcher are")


def folders_of(override: str) -> list[str]:
    """The folders that hydra.searchpath=[...] names, checked to be there."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found = OverridesParser.create().parse_override(override).value()
    except HydraException as error:
        raise UsageError(f"{override}: must be like hydra.searchpath=[file:///folder]") from error
    if not (isinstance(found, list) and all(isinstance(folder, str) for folder in found)):
        raise UsageError(f"{override}: must be a list of folders, like hydra.searchpath=[file:///folder]")
    for folder in found:
        path = folder.removeprefix("file://")
        if "://" not in path and not Path(path).is_dir():
            raise UsageError(f"hydra.searchpath={folder}: no such folder")
    return [str(folder) for folder in found]


def refuse_unused(node: Any, plain: Any, where: str) -> None:
    """Raise UsageError where files set something of Hydra's that is not used.

    node   the composed `hydra`
    plain  the same without anybody's settings
    where  the file that the configuration is composed from
    """
    from omegaconf import OmegaConf

    made, usual = (OmegaConf.to_container(n, resolve=False) for n in (node, plain))
    assert isinstance(made, dict) and isinstance(usual, dict)
    for tree in (made, usual):
        for key in OWN:
            tree.pop(key, None)
        tree["sweeper"].pop("params", None)
        for key in ("name", "config_name", "override_dirname"):  # Hydra's own record of this very composing
            tree["job"].pop(key, None)
    for name in difference(made, usual, ""):
        raise UsageError(f"hydra.{name}: set in {where} or what it includes, and not used here: {reason(name)}")


def difference(made: Any, usual: Any, prefix: str) -> list[str]:
    """Dotted names of the leaves of `made` that are not those of `usual`."""
    if isinstance(made, dict) and isinstance(usual, dict):
        names = {str(name): (made.get(name), usual.get(name)) for name in [*made, *usual]}
        return [leaf for name, (a, b) in names.items() for leaf in difference(a, b, f"{prefix}.{name}".lstrip("."))]
    return [] if made == usual else [prefix]
