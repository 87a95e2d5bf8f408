"""Where a run's numbers come from: code, versions, device, and hashes of data, model and reference."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dpo.cache import key
from dpo.data.ends import ends
from dpo.data.pair import Pair
from dpo.data.token_store import fingerprint
from dpo.errors import UsageError
from dpo.inputs import changed
from dpo.losses.base import Loss
from dpo.records import RunDir
from dpo.saved_config import read_saved

PACKAGES = ("dpo-lab", "torch", "transformers", "peft", "tokenizers", "hydra-core", "wandb")
NOT_IN_RESULTS = (
    *(
        "__main__.py",
        "console.py",
        "hydra_settings.py",
        "interrupt.py",
        "jobs.py",
        "judge.py",
        "launch.py",
        "libraries.py",
    ),
    *(
        "lifeline.py",
        "listing.py",
        "locks.py",
        "naming.py",
        "past.py",
        "pictures.py",
        "plan.py",
        "posthoc.py",
        "progress.py",
    ),
    *(
        "reproduce.py",
        "results",
        "reward.py",
        "rounds.py",
        "run_folders.py",
        "safe_path.py",
        "saved_config.py",
        "score.py",
    ),
    *("shared.py", "status.py", "streams.py", "sweep.py", "terminal.py", "tracking", "verbs.py", "wandb_sweeps.py"),
    "whereabouts.py",
)
"""Rooms of the package that only start runs or look at them; conf/ and sweeps/ speak through the configuration."""
IN_RESULTS = tuple(f"results/{name}.py" for name in ("stats", "intervals", "crossed", "clustered"))
"""Files of those rooms that make numbers of metric rows all the same: intervals."""


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit and hash of the package's uncommitted diff (null outside its checkout), versions, device model.

    A repository that merely surrounds the package, as one's own project does around its .venv, says nothing about it
    and stays out. No host name.
    """
    commit = git("rev-parse", "HEAD") if tracked() else None
    diff = git("diff", "--no-ext-diff", "--no-textconv", "HEAD", "--", ".") if commit else None
    return {
        "commit": commit,
        "diff_hash": hashlib.sha256(diff.encode()).hexdigest()[:16] if commit and diff else None,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "working_directory": str(Path.cwd()),
    }


def yardstick(evaluation: Sequence[Pair], tokenizer: Any) -> dict[str, Any]:
    """What evaluations are measured with, beside the length limit: hashes of the pairs' texts and of the tokenizer.

    `eval_data_hash` is over token ids and changes with either; these say which of the two it was. `answer_ends` are
    the ids that end a sampled answer.
    """
    texts = [(p.id, p.prompt, p.chosen, p.rejected) for p in evaluation]
    return {
        "eval_pairs_hash": key(texts),
        "tokenizer_hash": fingerprint(tokenizer),
        "answer_ends": sorted(ends(tokenizer)),
    }


def scale(loss: Loss) -> dict[str, Any]:
    """The facts of a loss that decide in which unit its rewards and its beta are, for readers without the trainer."""
    own_score = "reference" not in loss.needs
    name = type(loss).__name__
    return {"name": name, "reduction": loss.reduction, "own_score": own_score, "uses_beta": loss.uses_beta}


@functools.cache
def code() -> dict[str, str]:
    """Hash of every file of the package that a run's numbers can depend on, by its path."""
    package = Path(__file__).parent
    return {
        path.relative_to(package).as_posix(): short_hash(path)
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".jsonl", ".txt") and decides(path.relative_to(package))
    }


def decides(path: Path) -> bool:
    """Whether a run's numbers can depend on a file of the package."""
    return path.parts[0] not in NOT_IN_RESULTS or path.as_posix() in IN_RESULTS


def differences(made_by: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """What changed in code and inputs since a run of these settings recorded `made_by`: names and what happened."""
    if "code" not in made_by:
        return []
    then, now = made_by["code"], code()
    said = []
    for path in sorted({*then, *now}):
        if then.get(path) != now.get(path):
            said.append(f"dpo/{path} {'new' if path not in then else 'gone' if path not in now else 'changed'}")
    return said + [f"{path} {what}" for path, what in changed(made_by, plain)]


def files_hash(folder: Path) -> str | None:
    """Sixteen hex digits over the weight files of a folder; None where it has none."""
    files = (
        sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")) if folder.is_dir() else []
    )
    return key([(path.name, short_hash(path)) for path in files]) if files else None


def checkpoint_hash(run: RunDir) -> str:
    """What tells a finished run's weights from others, wherever they lie: its files, its start, its adapter."""
    files, start = files_hash(run.checkpoint), run.read("provenance")["start_hash"]
    if files is None:
        raise UsageError(f"{run.checkpoint}: holds no weights; give a run that kept its checkpoint")
    return key(files, start, read_saved(run.config)["adapter"])


def short_hash(path: Path) -> str:
    """Twelve hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def tracked() -> bool:
    """Whether the repository around this package is the one that keeps it."""
    return git("ls-files", "--error-unmatch", "--", Path(__file__).name) is not None


def git(*arguments: str) -> str | None:
    """Output of a git command in the package's folder, or None. Git's variables, as a hook sets them, do not count."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, env=own)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
