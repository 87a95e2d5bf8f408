"""Situations that once went wrong, each a folder whose `run.sh <dpo executable>` exits 0 when right ($DPO_CASES)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(os.environ.get("DPO_CASES", "no-such-folder"))


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(CASES.glob("*/run.sh")), ids=lambda script: script.parent.name)
def test_a_case_that_went_wrong_is_right(script: Path, tmp_path: Path) -> None:
    dpo = Path(sys.executable).with_name("dpo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "WANDB"))}
    done = subprocess.run(
        ["bash", script, dpo],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-3000:]
