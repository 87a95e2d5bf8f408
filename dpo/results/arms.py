"""Arms: runs that differ in nothing but the seed, and the settings that tell arms apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpo.config import NOT_IDENTITY
from dpo.errors import UsageError
from dpo.naming import short

if TYPE_CHECKING:
    from dpo.results.frames import Run

ABSENT = "absent"
"""Stands for a key that a run's configuration does not have."""


@dataclass(frozen=True)
class Arm:
    """Runs of one configuration and several seeds; `values` by dotted key, for the keys that tell arms apart."""

    label: str
    values: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def by_seed(self) -> dict[Any, Run]:
        """The runs by their seed."""
        return {run.seed: run for run in self.runs}


def varied(runs: Sequence[Run]) -> list[str]:
    """Dotted keys whose values differ among the runs, without the seed and what cannot change a result."""
    known = [run for run in runs if run.flat]
    keys = dict.fromkeys(key for run in known for key in run.flat)
    out = ("seed", *NOT_IDENTITY)
    return [
        key
        for key in keys
        if not any(key == name or key.startswith(f"{name}.") for name in out)
        and len({repr(run.flat.get(key, ABSENT)) for run in known}) > 1
    ]


def axes(runs: Sequence[Run]) -> list[str]:
    """The varied keys without those that follow from another: a loss's own hyperparameters and usual beta, say, are the
    same in every run with that loss, so `loss._target_` alone tells the arms apart."""
    keys = varied(runs)
    chosen = [key for key in keys if key.endswith("_target_")]
    kept = list(keys)
    for key in keys:
        others = [c for c in chosen if c != key and c in kept]
        if any(follows(runs, key, other) for other in others):
            kept.remove(key)
    return kept


def follows(runs: Sequence[Run], key: str, other: str) -> bool:
    """Whether a run's value of `other` decides its value of `key`."""
    seen: dict[str, str] = {}
    return all(
        seen.setdefault(repr(run.flat.get(other, ABSENT)), value) == value
        for run in runs
        if run.flat
        for value in [repr(run.flat.get(key, ABSENT))]
    )


def arms(runs: Sequence[Run], keys: Sequence[str] = ()) -> list[Arm]:
    """The runs by everything that varies but the seed: never two configurations in one arm.

    Ordered by `keys` (with or without config. before them), then by the other axes; UsageError for an unknown key.
    """
    wanted = [key.removeprefix("config.") for key in keys]
    for key in wanted:
        if not any(key in run.flat for run in runs):
            raise UsageError(f"{key}: no setting of these runs; what varies is {', '.join(varied(runs)) or 'nothing'}")
    names = list(dict.fromkeys([*wanted, *axes(runs)]))
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    found = []
    for members in groups.values():
        values = {name: members[0].flat.get(name, ABSENT) for name in names}
        found.append(Arm(label(values), values, tuple(sorted(members, key=lambda run: rank(run.seed)))))
    return sorted(found, key=lambda arm: [rank(value) for value in arm.values.values()])


def label(values: Mapping[str, Any]) -> str:
    """An arm in words, such as "beta 0.05, loss ipo"; "all runs" where nothing varies."""
    return ", ".join(f"{title(key)} {shown(value)}" for key, value in values.items() if value != ABSENT) or "all runs"


def title(key: str) -> str:
    """The word of a dotted key that says something: beta of beta.value, loss of loss._target_."""
    return key.split(".")[-2] if key.endswith("._target_") else short(key)


def shown(value: Any) -> str:
    """A setting's value for people: the last word of a class or a path."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).rstrip("/")
    return text.rsplit(".", 1)[-1] if text.startswith("dpo.") else text.rsplit("/", 1)[-1]


def rank(value: Any) -> tuple[int, float, str]:
    """Sort key: numbers by size, then texts, then what is absent."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return (2, 0.0, "") if value in (ABSENT, None) else (1, 0.0, str(value))
