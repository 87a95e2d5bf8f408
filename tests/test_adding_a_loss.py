"""docs/adding-a-loss.md is true: its two files, and no other, make a loss that trains and passes the properties."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adding-a-loss.md"
FILES = re.compile(r"^`((?:dpo|conf)/[^`]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with the page's files added."""
    root = tmp_path_factory.mktemp("project")
    for name in ("dpo", "conf", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, text in FILES.findall(PAGE.read_text()):
        assert not (root / name).exists(), name
        (root / name).write_text(text)
    return root


def execute(root, *arguments):
    """A Python process in the copy that can only find the copy's package."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "DPO_CONF": str(root / "conf")}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def test_the_page_adds_one_python_file_and_one_yaml():
    """Nothing else is named to be written."""
    assert [Path(name).suffix for name, _ in FILES.findall(PAGE.read_text())] == [".py", ".yaml"]


@pytest.mark.slow
def test_the_new_loss_passes_what_every_loss_must(copy):
    """The globbing tests find it by its yaml."""
    done = execute(copy, "-m", "pytest", "tests/losses", "-k", "truncated_quadratic", "-p", "no:cacheprovider", "-vv")
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("PASSED") > 20, done.stdout[-2000:]


@pytest.mark.slow
def test_the_new_loss_trains(copy, tmp_path):
    """`dpo train loss=truncated_quadratic` from its start value max(0, 2)^2 downwards."""
    settings = ["model.steps=5", "model.width=32", "sft.epochs=2", "train.max_steps=3", "evaluate.samples=0"]
    settings += ["evaluate.kl_samples=0", "tracker=disabled", f"output_root={tmp_path}", f"cache_root={tmp_path}/cache"]
    chosen = ["loss=truncated_quadratic", "loss.margin=2"]
    done = execute(copy, "-m", "dpo", "train", "experiment=capstone", *chosen, *settings)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (Path(done.stdout.split()[-1]) / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval/loss"] for row in rows if row["kind"] == "eval"]
    assert losses[0] == pytest.approx(4.0, rel=1e-4) and losses[-1] < losses[0]
