"""Folders of data files: which files are data, and which split each of them is by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dpo.errors import UsageError

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
BESIDE = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What `datasets` writes beside data."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in files' names that say their split."""


def folder_files(folder: Path) -> list[Path]:
    """Data files below a folder in name order, at least one; hidden ones and descriptions of the set do not count."""
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(ENDINGS)
        and path.name not in BESIDE
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found and any(folder.rglob("*.arrow")):
        raise UsageError(
            f"{folder}: holds Arrow files, as save_to_disk of datasets writes them; write the set with to_parquet or "
            "to_json instead, and set dataset.path to that"
        )
    if not found:
        raise UsageError(f"{folder}: no files that end in {', '.join(ENDINGS)}; set dataset.path to a folder with some")
    return found


def words(path: Path, folder: Path) -> list[str]:
    """The words of a file's path below the folder, in small letters."""
    return re.split(r"[^a-z0-9]+", path.relative_to(folder).as_posix().lower())


def split_of(path: Path, folder: Path) -> str | None:
    """train, validation or test, as the last word in a file's path says that says any."""
    said = [split for word in words(path, folder) for split, names in SPLITS.items() if word in names]
    return said[-1] if said else None


def named(files: Iterable[Path], folder: Path, split: str) -> list[Path]:
    """The files of a split: those that are called so (before -00000-of-00001), else those with it in their path."""
    files = list(files)
    exact = [path for path in files if re.sub(r"-\d+-of-\d+$", "", path.name.split(".")[0]) == split]
    wanted = [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]
    return exact or [path for path in files if stands_in(wanted, words(path, folder))]


def stands_in(wanted: list[str], path: list[str]) -> bool:
    """Whether some words stand one after another in a path."""
    return bool(wanted) and any(path[i : i + len(wanted)] == wanted for i in range(len(path)))


def outside(files: list[Path], apart: Path | None) -> list[Path]:
    """The files that are neither `apart` nor below it; all of them where nothing else would be left."""
    if apart is None:
        return files
    away = apart.expanduser().resolve()
    return [path for path in files if not path.resolve().is_relative_to(away)] or files


def parts_of(folder: Path, train: str, evaluation: str | None, apart: Path | None) -> tuple[list[Path], list[Path]]:
    """(files to train on, files to evaluate on) of a folder by the names of the splits; `apart` is evaluated on.

    All files are trained on where none names any split. Raises UsageError where a split is asked for that no file
    names and others are.
    """
    everything = folder_files(folder)
    files = outside(everything, apart)
    train_files = named(files, folder, train)
    eval_files = [] if evaluation is None or apart is not None else named(files, folder, evaluation)
    splits = sorted({split for path in everything if (split := split_of(path, folder))})
    have = f"the files of {folder} name {', '.join(splits) or 'none'}"
    if not train_files and not eval_files and not splits and train.startswith("train"):
        return files, []
    if not train_files:
        raise UsageError(f"dataset.train_split={train}: no file has this in its name; {have}")
    if evaluation is not None and apart is None and not eval_files and set(splits) != {"train"}:
        raise UsageError(
            f"dataset.eval_split={evaluation}: no file has this in its name; {have}; null holds out a share of the "
            "training files, and dataset.eval_path names a file to evaluate on"
        )
    return [path for path in train_files if path not in eval_files], eval_files


def one_part(folder: Path, apart: Path | None) -> list[Path]:
    """The files of a folder that is one set; raises UsageError where their names say several splits."""
    files = outside(folder_files(folder), apart)
    splits: dict[str, str] = {}
    for path in files:
        if split := split_of(path, folder):
            splits.setdefault(split, path.relative_to(folder).as_posix())
    if len(splits) > 1:
        files_of = ", ".join(f"{split}: {name}" for split, name in splits.items())
        raise UsageError(
            f"{folder}: holds files of several splits ({files_of}); set dataset.path to what to train on and "
            "dataset.eval_path to what to evaluate on, or use dataset=hub with dataset.train_split and eval_split"
        )
    return files
