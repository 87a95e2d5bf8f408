"""Run a finished run again from its run.yaml alone and compare every row."""

from __future__ import annotations

import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dpo import past, reward
from dpo.errors import UsageError
from dpo.inputs import changed
from dpo.records import RunDir
from dpo.run import run
from dpo.terminal import tell


def reproduce(path: Path, into: Path | None) -> int:
    """0 where all metric rows but their wall-clock values are equal bit for bit, else 1 and the first that differs."""
    first = RunDir(path.absolute())
    if first.status()["state"] != "done":
        raise UsageError(f"{path}: no finished run here; only a finished run can be reproduced")
    into = into and into.absolute()
    with tempfile.TemporaryDirectory() as scratch, past.at_home(first):
        config = past.settings(first, output_root=str(into or scratch), tracker={"mode": "disabled"})
        other = [f"{file} {what}" for file, what in changed(past.provenance(first), config.plain) if what != "gone"]
        if other:
            tell(f"note: the run was made of other data or weights ({', '.join(other[:3])}); its rows may differ")
        second, _ = (reward.run if first.kind == "reward" else run)(config)
        pairs = list(zip_longest(rows(first), rows(second)))
    for number, (old, new) in enumerate(pairs, 1):
        if old != new:
            names = [k for k in sorted({*(old or {}), *(new or {})}) if (old or {}).get(k) != (new or {}).get(k)]
            tell(f"row {number} differs in {', '.join(names)}")
            if others := past.provenance(first).get("in_one_batch"):
                tell(
                    f"the run was trained in one batch of {len(others)} runs (hydra/launcher=stacked), which "
                    "rounds in other places than a run alone: it is reproduced up to rounding, and differs by at most "
                    f"{largest(pairs):.1e} of a value (or of one)"
                )
            return 1
    tell(f"{len(pairs)} metric rows, all equal bit for bit")
    return 0


def largest(pairs: list[tuple[dict[str, Any] | None, dict[str, Any] | None]]) -> float:
    """The largest difference of two numbers of the same name, relative to them where they are above one."""
    gaps = [
        abs(old[name] - value) / max(1.0, abs(value))
        for old, new in pairs
        if old and new
        for name, value in new.items()
        if isinstance(value, (int, float)) and isinstance(old.get(name), (int, float))
    ]
    return max(gaps, default=0.0)


def rows(directory: RunDir) -> list[dict[str, Any]]:
    """Metric rows without wall-clock values."""
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in directory.rows(directory.metrics)
    ]
