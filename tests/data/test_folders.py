"""Folders of data files: which are trained on, which are evaluated on, and which are no data."""

import json
from pathlib import Path

import pytest

from dpo.config import load
from dpo.data.folders import folder_files, named, split_of
from dpo.errors import UsageError

CLONE = ("data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl")
ROWS = 40


def folder(root: Path, *names: str) -> Path:
    """Data files of ROWS different pairs each, whose prompts name their file."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{name} {i}", "chosen": "a", "rejected": "b"} for i in range(ROWS)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def read(dataset: str, path: Path, *overrides: str) -> tuple[set[str], set[str]]:
    """The files that training and evaluation pairs are of."""
    split = load([f"dataset={dataset}", f"dataset.path={path}", *overrides]).dataset.load()
    sides = ([str(pair.prompt).rsplit(" ", 1)[0] for pair in part] for part in (split.train, split.evaluation))
    train, evaluation = map(set, sides)
    return train, evaluation


@pytest.mark.parametrize(
    ("overrides", "train", "evaluation"),
    [
        ([], {0}, {0}),
        (["dataset.eval_split=test"], {0}, {2}),
        (["dataset.eval_split=validation"], {0}, {1}),
        (["dataset.train_split=test"], {2}, {2}),
        (["dataset.eval_path={}/data/test-00000-of-00001.jsonl"], {0}, {2}),
    ],
)
def test_a_named_split_alone_is_trained_on(overrides, train, evaluation, tmp_path: Path) -> None:
    """Whatever is evaluated on: a split, a file of its own, or a held-out share of the training split."""
    root = folder(tmp_path, *CLONE)
    found = read("hub", root, *(o.format(root) for o in overrides))
    assert found == ({CLONE[i] for i in train}, {CLONE[i] for i in evaluation})


@pytest.mark.parametrize(
    "override", ("dataset.train_split=nosuch", "dataset.eval_split=dev_set", "dataset.eval_split=x")
)
def test_a_split_that_no_file_names_is_refused_with_those_there_are(override: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{override}: no file.*test, train, validation"):
        read("hub", folder(tmp_path, *CLONE), override)


def test_own_files_of_several_splits_are_refused_with_the_keys(tmp_path: Path) -> None:
    """dataset=files has no names of splits: which file is which must be said."""
    with pytest.raises(UsageError, match=r"several splits.*train: data/train.*dataset\.eval_path"):
        read("files", folder(tmp_path, *CLONE))
    found = read("files", tmp_path / CLONE[0], f"dataset.eval_path={tmp_path / CLONE[2]}")
    assert found == ({CLONE[0]}, {CLONE[2]})


@pytest.mark.parametrize("dataset", ("files", "hub"))
def test_an_evaluation_file_below_the_training_folder_is_not_trained_on(dataset: str, tmp_path: Path) -> None:
    root = folder(tmp_path, "a.jsonl", "b.jsonl", "held/c.jsonl")
    assert read(dataset, root, f"dataset.eval_path={root}/held") == ({"a.jsonl", "b.jsonl"}, {"held/c.jsonl"})


@pytest.mark.parametrize("dataset", ("files", "hub"))
def test_files_that_name_no_split_are_one_set(dataset: str, tmp_path: Path) -> None:
    """Parts, and words that only contain a split's name; hidden files and descriptions of the set are no data."""
    root = folder(tmp_path, "part-0.jsonl", "constraints.jsonl", ".cache/x.jsonl")
    (root / "dataset_infos.json").write_text("{}")
    (root / "state.json").write_text("[]")
    assert read(dataset, root)[0] == {"part-0.jsonl", "constraints.jsonl"}


def test_published_splits_keep_their_longer_names(tmp_path: Path) -> None:
    """UltraFeedback's train_prefs beside train_sft; HH-RLHF's folders with a train and a test file each."""
    root = folder(tmp_path, *(f"{kind}-00000-of-00002.jsonl" for kind in ("train_prefs", "train_sft", "test_prefs")))
    files = folder_files(root)
    assert [p.name[:11] for p in named(files, root, "train_prefs")] == ["train_prefs"]
    assert len(named(files, root, "train")) == 2 and [split_of(p, root) for p in files] == ["test", "train", "train"]
    root = folder(tmp_path / "hh", "harmless/train.jsonl", "harmless/test.jsonl", "helpful/train.jsonl")
    assert [p.parent.name for p in named(folder_files(root), root, "train")] == ["harmless", "helpful"]


def test_arrow_folders_are_refused_by_their_nature(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(b"ARROW")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UsageError, match=r"Arrow files, as save_to_disk.*to_parquet"):
        read("hub", tmp_path)


def test_an_empty_evaluation_names_its_keys(tmp_path: Path) -> None:
    """Three pairs, none of which the hash holds out."""
    from dpo.run import load_data

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(3)))
    with pytest.raises(UsageError, match=r"evaluation pairs: no pairs.*dataset\.eval_share.*dataset\.eval_path"):
        load_data(load(["dataset=files", f"dataset.path={path}", "dataset.eval_share=0.0001"]))
