"""A run is the answer for the files that it was made of: others are said and refused, found finished or resumed."""

import json
import os
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.inputs import changed, inputs, refuse_moving
from dpo.json_files import write_json
from dpo.records import RunDir

from .conftest import SMALL
from .test_cli import pairs_of_twelve


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with data files and what is none, and a model's folder."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("a.jsonl", "more/b.parquet", "notes.md", ".hidden.jsonl"):
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "photo.png"):
        (tmp_path / "model" / name).write_text(name)
    return tmp_path


def settings(folder: Path) -> dict[str, object]:
    """What a run of these reads, among it a part of a mixture."""
    dataset = {"parts": {"x": {"path": str(folder / "data"), "eval_path": str(folder / "data" / "a.jsonl")}}}
    return {"dataset": dataset, "model": {"path": str(folder / "model"), "dtype": "float32"}, "reference": None}


def test_every_file_that_is_read_counts_and_no_other(data: Path) -> None:
    """Of folders and of nested settings; texts that are no paths do no harm."""
    made = inputs(settings(data) | {"reference": {"path": "x" * 3000 + "\n"}})
    names = sorted(Path(path).relative_to(data).as_posix() for path in made)
    weights = ["model/config.json", "model/model.safetensors", "model/tokenizer.json"]
    assert names == ["data/a.jsonl", "data/more/b.parquet", *weights]


@pytest.mark.parametrize(
    "name", ["data/a.jsonl", "data/more/b.parquet", "model/model.safetensors", "model/config.json"]
)
def test_a_change_is_named_with_both_hashes(name: str, data: Path) -> None:
    """By content: a touched file is the same; of the same size and date another is not."""
    plain = settings(data)
    made_by = {"files": inputs(plain)}
    os.utime(data / name, (1, 1))
    assert changed(made_by, plain) == []
    (data / name).write_text("other")
    [(path, what)] = changed(made_by, plain)
    assert path == str(data / name) and what == f"changed from {made_by['files'][path]} to {inputs(plain)[path]}"
    with pytest.raises(UsageError, match="changed while it was read"):
        refuse_moving(made_by["files"], plain)


def test_files_that_come_and_go_are_named(data: Path) -> None:
    """A new file in a folder that was read; a run from before that recorded no folder is left in peace."""
    plain = settings(data)
    made_by = {"files": inputs(plain)}
    (data / "data" / "c.jsonl").write_text("c")
    (data / "model" / "config.json").unlink()
    whats = {Path(path).name: what for path, what in changed(made_by, plain)}
    assert whats == {"c.jsonl": "new", "config.json": "gone"}
    assert changed({"files": {}}, plain) == []


def test_large_weights_are_told_apart_by_pieces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change anywhere in a layer, in a fraction of the reading."""
    monkeypatch.setattr("dpo.inputs.WHOLE", 1000)
    path, plain = data / "model" / "model.safetensors", settings(data)
    path.write_bytes(bytes(200_000))
    before = inputs(plain)
    path.write_bytes(bytes(100_000) + b"\x01" * 5000 + bytes(95_000))
    assert inputs(plain)[str(path)] != before[str(path)]


def test_a_finished_run_of_other_data_is_no_answer_and_a_killed_one_does_not_go_on(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, -m and plan: one line with the file; nothing of the run is touched; --rerun-changed runs it again."""
    file = pairs_of_twelve(tmp_path / "pairs.jsonl")
    given = [*SMALL, "train.max_steps=2", "dataset=files", f"dataset.path={file}", f"cache_root={cache}"]
    given.append(f"output_root={tmp_path / 'out'}")
    assert main(["train", *given]) == 0
    run = RunDir(Path(capsys.readouterr().out.splitlines()[-1]))
    assert main(["train", "-m", *given, "seed=0"]) == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    whole = file.read_text()
    file.write_text(whole.replace("Paris", "Lyon"))
    capsys.readouterr()
    for verb in (["train"], ["train", "-m"]):
        assert main([*verb, *given, "seed=0"]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert f"{file} changed from " in line and "cannot be the answer" in line
    assert kept == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(["train", "-m", *given, "seed=0", "--rerun-changed"]) == 0
    run.set_status("interrupted", cause="killed")
    assert main(["train", *given]) == 2
    assert "cannot go on" in capsys.readouterr().err
    file.write_text(whole)
    assert main(["train", *given]) == 0
    file.write_text(whole.replace("Paris", "Lyon"))
    capsys.readouterr()
    main(["reproduce", str(run.path)])
    assert "the run was made of other data or weights" in capsys.readouterr().err
    facts = run.read("provenance")
    write_json(run.path / "provenance.json", facts | {"files": {}})
    assert main(["train", *given]) == 0, "a run from before files were recorded is left in peace"
    assert json.dumps(facts["files"]).count("pairs.jsonl") == 1
