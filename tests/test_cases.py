"""Situations that once went wrong, each a folder whose `run.sh <dpo executable>` exits 0 when right ($DPO_CASES)."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.processes import ROOT

SCRIPTS = sorted(Path(os.environ.get("DPO_CASES", "no-such-folder")).glob("*/run.sh"))
OF_A_PROCESS = (
    *("agents_at_one_instant", "ctrl_c_is_interrupted", "cwd_module_runs", "files_that_change", "long_tmpdir"),
    *("reader_of_the_log_ends", "sigterm_state", "sigterm_to_processes", "terminal_not_utf8", "wandb_environment"),
    "watch_of_a_killed_sweep",
)
"""Cases whose claim is about the command's own process; the others ask a server that has imported already."""


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dpo executable that begins at once."""
    where = tmp_path_factory.mktemp("warm")
    server = subprocess.Popen([sys.executable, "-m", "tests.warm", "serve", where / "door"], cwd=ROOT)
    while not (where / "door").exists():
        assert server.poll() is None
        time.sleep(0.05)
    yield warm.folder(where / "bin", where / "door")
    server.kill()
    server.wait()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_a_case_that_went_wrong_is_right(script: Path, executable: Path, tmp_path: Path) -> None:
    real = script.parent.name in OF_A_PROCESS
    dpo = Path(sys.executable).with_name("dpo") if real else executable
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
