"""Nothing kept is believed unchecked: a flipped bit or a cut is found, said by file, and built or begun again."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dpo import seals
from dpo.__main__ import main
from dpo.cache import build_once
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.seals import NAME, check, fault, seal


def tensors(path: Path) -> None:
    """A small safetensors file."""
    import numpy as np

    save_file({"flat_N": np.arange(20, dtype="float32")}, path)


def folder(path: Path) -> None:
    """A folder like a model's."""
    path.mkdir()
    tensors(path / "model.safetensors")
    (path / "config.json").write_text('{"width": 32}')


def spoil(file: Path, how: str) -> None:
    """What disks and power cuts do to a file."""
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    file.write_bytes({"flip": data, "cut": data[:-3], "empty": b"", "zeros": bytes(len(data))}[how])


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "zeros"])
@pytest.mark.parametrize(
    ("build", "inside"), [(tensors, ""), (folder, "model.safetensors"), (folder, "config.json"), (folder, NAME)]
)
def test_a_spoilt_entry_is_set_aside_said_and_built_again(tmp_path: Path, capsys, build, inside: str, how: str) -> None:
    """Once: then it is whole, and what was spoilt lies beside it."""
    path = tmp_path / "entry.safetensors"
    assert build_once(path, build) and not build_once(path, build)
    whole = {file.name: file.read_bytes() for file in seals.files_of(path).values()}
    spoil(path / inside if inside else path, how)
    assert build_once(path, build) and not build_once(path, build)
    said = capsys.readouterr().err
    assert said.count("is damaged") == 1 and str(path) in said and (inside or path.name) in said
    assert {file.name: file.read_bytes() for file in seals.files_of(path).values()} == whole
    assert (tmp_path / ".entry.safetensors.damaged").exists()


@given(st.binary(min_size=1, max_size=300), st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_and_any_cut_is_found(tmp_path_factory, content: bytes, data) -> None:
    """Wherever it is."""
    path = tmp_path_factory.mktemp("seal") / "x.bin"
    path.write_bytes(content)
    seal(path)
    assert fault(path) is None
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    for other in (bytes(flipped), content[: data.draw(st.integers(0, len(content) - 1))], content + b"x"):
        path.write_bytes(other)
        seals.FOUND_WHOLE.clear()  # two writes within one tick of the clock
        assert path.name in (fault(path) or "")


def test_a_file_of_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    """And one that a user added is nobody's business."""
    folder(tmp_path / "model")
    seal(tmp_path / "model")
    (tmp_path / "model" / "note.txt").write_text("mine")
    check(tmp_path / "model", "")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(UsageError, match=r"config\.json is missing; do this"):
        check(tmp_path / "model", "do this")


@pytest.mark.parametrize("how", ["cut", "empty", "zeros"])
def test_an_entry_from_before_checksums_is_taken_if_it_is_whole_by_its_format(tmp_path: Path, how: str) -> None:
    """It gets them then; a torn one is built again."""
    old = tmp_path / "old"
    folder(old)
    assert not build_once(old, folder) and (old / NAME).is_file()
    torn = tmp_path / "torn"
    folder(torn)
    spoil(torn / "model.safetensors", how)
    assert build_once(torn, folder)


def test_a_cache_that_cannot_be_written_serves_what_it_has(tmp_path: Path, monkeypatch, capsys) -> None:
    """Shared and read-only; a damaged entry there is one line, with its name."""
    path = tmp_path / "old"
    folder(path)
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("dpo.cache.locked", refuse)
    assert not build_once(path, folder)
    seal(path)
    spoil(path / "model.safetensors", "flip")
    with pytest.raises(UsageError, match=r"old is damaged \(.*model.safetensors.*cannot be built again: read-only"):
        build_once(path, folder)


def refuse(*_: object) -> None:
    raise UsageError("read-only")


@pytest.fixture
def directory(tmp_path: Path) -> RunDir:
    """A run with a checkpoint of step 4 that takes the place of one of step 2."""
    run = RunDir(tmp_path / "run")
    run.create()
    run.append(run.metrics, [{"step": step} for step in range(5)])
    for step in (2, 4):
        if run.checkpoint.exists():
            shutil.copytree(run.checkpoint, tmp_path / "before")
        with run.new_checkpoint() as new:
            (new / "step.json").write_text(json.dumps({"step": step}))
            tensors(new / "policy.safetensors")
    return run


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "zeros", "gone"])
@pytest.mark.parametrize("before", [False, True])
def test_a_damaged_checkpoint_is_never_resumed_from(
    directory: RunDir, tmp_path, capsys, how: str, before: bool
) -> None:
    """The run begins again, or goes on from the checkpoint before it where a kill left that there; one line says so."""
    if before:
        shutil.move(tmp_path / "before", directory.path / ".checkpoint.old")
    file = directory.checkpoint / "policy.safetensors"
    file.unlink() if how == "gone" else spoil(file, how)
    directory.recover()
    said = capsys.readouterr().err
    assert directory.checkpoint_step == (2 if before else None)
    assert said.count("\n") == 1 and "policy.safetensors" in said
    assert ("goes on from the one before it" if before else "starts over") in said
    assert (directory.path / ".checkpoint.damaged").is_dir()


def test_a_damaged_checkpoint_of_a_finished_run_is_wrong_usage(finished: RunDir, tmp_path: Path, capsys) -> None:
    """Score and compare name the file; nothing is computed from it."""
    copy = tmp_path / finished.path.name
    shutil.copytree(finished.path, copy)
    spoil(copy / "checkpoint" / "adapter_model.safetensors", "flip")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    for command in (["score", str(copy), str(pairs)], ["compare", str(copy), "--prompt", "a"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "adapter_model.safetensors" in said and "damaged" in said and said.count("\n") == 1
