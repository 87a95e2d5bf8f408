"""sweeps/wandb/*.yaml from the question files: `python -m dpo.wandb_sweeps` writes them, a test holds them equal.

An agent gives `dpo sweep NAME` one grid point at a time. The run's directory and id are the ones that
`dpo sweep NAME` alone would give it, so agents on many machines, with one shared output root, fill one sweep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dpo.sweep import expand, find, names, sweeps_dir

COMMAND = ["${env}", "${interpreter}", "-m", "dpo", "sweep"]


def sweep_file(name: str) -> str:
    """The text of a W&B sweep file; parameters are flat, and null is text, as Hydra's grammar needs it."""
    path = find(name)
    head = [line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("#")]
    params = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    content: dict[str, Any] = {
        "name": name,
        "project": "dpo",
        "program": "dpo",
        "method": "grid",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": {key: {"values": values(key, str(given))} for key, given in params.items()},
        "command": [*COMMAND, name, "tracker=online", "${args_no_hyphens}"],
    }
    made = f"# Made from sweeps/{name}.yaml by `python -m dpo.wandb_sweeps`; `wandb sweep` takes this file."
    return "\n".join([*head, made, ""]) + yaml.safe_dump(content, sort_keys=False, width=120)


def values(key: str, given: str) -> list[Any]:
    """The values of one key of a grid: numbers as numbers, everything else as text."""
    points, _ = expand({key: given}, [])
    return [number(point[0].partition("=")[2]) for point in points]


def number(text: str) -> int | float | str:
    """An integer or a float where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main(folder: Path | None = None) -> None:
    """Write a file for every question."""
    folder = folder or sweeps_dir() / "wandb"
    folder.mkdir(exist_ok=True)
    for name in names():
        (folder / f"{name}.yaml").write_text(sweep_file(name), encoding="utf-8")


if __name__ == "__main__":
    main()
