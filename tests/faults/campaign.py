"""The campaign: commands, what a folder holds after them, and one fault with the same command after it."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.seals import NAME
from tests.conftest import SMALL
from tests.processes import ROOT, Python

LEAST = [
    *(f for f in SMALL if f.split("=")[0] not in ("sft.epochs", "train.max_steps", "train.eval_every")),
    "sft.epochs=1",
    "train.max_steps=2",
    "train.eval_every=2",
    "train.checkpoint_every=1",
    "train.threads=1",
    "evaluate.samples=2",
    "evaluate.greedy=1",
    "evaluate.kl_samples=2",
    "evaluate.max_new_tokens=4",
]
"""A run with every kind of file in it, in as little time as there is."""
JUDGED = ["model=tiny_byte", "model.steps=5", "model.width=32", "dataset=twelve", "sft.epochs=60", "train.threads=1"]
JUDGED += ["train.max_length=128", "judge=length", "judge.samples=2", "judge.max_new_tokens=24", "judge.prompts=4"]
GRID = ["-m", "seed=0,1", "adapter=lora_qv"]
UNREWARDED = [setting for setting in LEAST if not setting.startswith(("evaluate", "beta"))]
COMMANDS = {
    "train": ["train", *LEAST],
    "sweep": ["train", *LEAST, *GRID],
    "stacked": ["train", *LEAST, *GRID, "hydra/launcher=stacked"],
    "judge": ["judge", *JUDGED],
    "reward": ["reward", *UNREWARDED, "adapter=lora_qv"],
}
KINDS = ("kill", "full")
PLANTED = """
import sys
from pathlib import Path
from tests.faults.shim import plant
from dpo.__main__ import main
root, kind, at, count = sys.argv[1:5]
shim = plant(Path(root), kind, int(at))
code = main(sys.argv[5:])
sys.stderr.flush()
if count:
    shim.kind = "none"
    Path(count).write_text(str(shim.count))
sys.exit(code)
"""
OTHERWISE = ("reference_store", "commit", "diff_hash", "seconds")
"""What may differ: whether the reference was found or computed; a checkout that moves meanwhile; a clock."""
TEMPORARY = re.compile(r"\.(unfinished|building|old|copying)$|\.damaged")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    said: str


def run(command: str, root: Path, kind: str = "none", at: int = 0, count: Path | None = None) -> Ended:
    """A command of the campaign below `root`, with a fault."""
    words = [*COMMANDS[command], f"output_root={root}/out", f"cache_root={root}/cache"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = Python(PLANTED, str(root), kind, str(at), str(count or ""), *words, env=settings)
    out, said = process.communicate(timeout=300)
    return Ended(process.returncode or 0, out + said)


def points(command: str, root: Path, kind: str) -> int:
    """How many operations of a kind the command does in an empty folder."""
    root.mkdir(parents=True)
    count = root.with_name(f"{root.name}.count")
    ended = run(command, root, kind, 0, count)
    assert ended.code == 0, ended.said
    return int(count.read_text())


def holds(root: Path) -> dict[str, Any]:
    """What lies below a folder, by name: contents without wall-clock values and paths; of locks only the names."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = path.relative_to(root).as_posix()
            lock = ".lock" in name or path.name.startswith(".launchers")
            found[name] = None if lock else content(path, root)
    return found


def content(path: Path, root: Path) -> Any:
    """A file as it may be compared."""
    data = path.read_bytes()
    if path.name.endswith(NAME):  # of contents that are compared themselves, paths and all
        return None
    if path.suffix not in (".json", ".jsonl", ".yaml", ".csv", ".md"):
        return data
    text = data.decode().replace(str(root), "ROOT")
    if path.suffix == ".json":
        return timeless(json.loads(text))
    return [timeless(json.loads(line)) for line in text.split("\n") if line] if path.suffix == ".jsonl" else text


def timeless(value: Any) -> Any:
    """JSON without what a clock says."""
    if isinstance(value, list):
        return [timeless(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if not k.startswith("time/") and k not in OTHERWISE}
    return {key: timeless(item) for key, item in kept.items()}


def wrong(command: str, kind: str, at: int, root: Path, expected: dict[str, Any]) -> list[str]:
    """What is not as it should be after a fault at operation `at`, and the same command again."""
    root.mkdir(parents=True)
    first = run(command, root, kind, at)
    said = []
    if kind == "full":
        said += unsaid(first, root) + [f"left after the fault: {name}" for name in temporary(root)]
    again = run(command, root)
    if again.code:
        said.append(f"the same command again: exit {again.code}: {last_line(again)}")
    found = holds(root)
    said += [f"left: {name}" for name in sorted(set(found) - set(expected))]
    said += [f"missing: {name}" for name in sorted(set(expected) - set(found))]
    said += [f"differs: {name}" for name in expected if name in found and found[name] != expected[name]]
    shutil.rmtree(root, ignore_errors=True)
    return said


def unsaid(ended: Ended, root: Path) -> list[str]:
    """What a command on a full disk did not say: the path, what could not be done, and the key to change."""
    if ended.code == 0:
        return [] if "no curves" in ended.said else ["exit 0 on a full disk"]
    told = re.search(rf"cannot (write|make the folder|lock) {re.escape(str(root))}\S*: No space.*_root", ended.said)
    return [] if told and "Traceback" not in ended.said else [f"does not say what and where: {last_line(ended)}"]


def temporary(root: Path) -> list[str]:
    """Temporary files and folders below a folder."""
    return [path.name for path in root.rglob("*") if TEMPORARY.search(path.name)]


def last_line(ended: Ended) -> str:
    """The last line of what was said."""
    return (ended.said.strip().splitlines() or ["nothing"])[-1][-300:]


def chosen(count: int, share: Sequence[int] | None) -> list[int]:
    """All points, or part n of m: 1 + n, 1 + n + m, ..."""
    return list(range(1, count + 1)) if share is None else list(range(1 + share[0], count + 1, share[1]))
