"""Whatever a data file holds, reading it ends in pairs or in one line: no traceback, through the commands' own door.

`make fuzz` tries 10,000 damaged rows and more; a test run a sample. FUZZ is the number of files for each data set.
"""

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dpo.__main__ import main
from dpo.audit import audit
from dpo.config import Config, load
from dpo.data.files import read_pairs
from dpo.data.judge import asked_of
from dpo.data.pair import check_pairs
from dpo.data.templates import render
from dpo.data.tokens import tokenise
from dpo.errors import UsageError
from tests.data import rowfuzz

FILES = int(os.environ.get("FUZZ", "6"))
TRIES = settings(
    max_examples=FILES,
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def write(folder: Path, ending: str, content) -> Path | None:
    """The data file; None where Arrow cannot hold its rows."""
    path = folder / f"a{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    return path if rowfuzz.parquet(content, path) else None


def outcome(config: Config, path: Path) -> str:
    """What `dpo audit`, `dpo score RUN PAIRS` and the prompts of `dpo judge` make of a file: "" or their one line."""
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, path=str(path)))
    tokenizer = config.model.tokenizer(Path(config.cache_root))
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            audit(config)
            for asked in asked_of(config.dataset.load().train, None, 0):
                render(asked.prompt, tokenizer)
            if type(config.dataset).__name__ == "Files":
                pairs = read_pairs(path)
                check_pairs(pairs, str(path))
                tokenise(pairs, tokenizer, 512)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dataset", rowfuzz.DATASETS)
def test_no_file_ends_in_a_traceback(dataset: str, cache: Path, tmp_path: Path) -> None:
    """Anything but pairs or a UsageError of one line fails here, with the file that did it."""
    roots = [f"output_root={tmp_path / 'out'}", f"cache_root={cache}"]
    options = ["dataset.eval_share=0.3", *([] if dataset == "files" else ["dataset.eval_split=null"])]
    config = load(["model=tiny_byte", "model.steps=5", f"dataset={dataset}", "dataset.path=x", *options, *roots])
    seen = {"pairs": 0, "lines": 0}

    @TRIES
    @given(made=rowfuzz.files(dataset))
    def try_one(made) -> None:
        path = write(tmp_path, *made)
        if path is None:
            return
        line = outcome(config, path)
        seen["lines" if line else "pairs"] += 1
        assert "\n" not in line
        path.unlink()

    try_one()
    assert FILES < 20 or (seen["pairs"] and seen["lines"])


def test_the_command_says_one_line_and_exits_2(cache: Path, tmp_path: Path, capsys) -> None:
    """The same refusal through `dpo audit`."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(rowfuzz.as_json(rowfuzz.good("files", 0)) + b'\n{"id": ' + b"9" * 5000 + b"}\n")
    roots = [f"output_root={tmp_path / 'out'}", f"cache_root={cache}"]
    assert main(["audit", "model=tiny_byte", "dataset=files", f"dataset.path={path}", *roots]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"dpo: {path}:2: not JSON")
