"""A real W&B agent on a sweep file of ours: its runs are our run directories, its server has their rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpo.run_folders import find_runs, state
from dpo.sweep import read, sweeps_dir

from ..conftest import SMALL
from ..sweeps import ROOT
from .server import Server
from .test_online import rows_of

SETTINGS = [setting for setting in SMALL if not setting.startswith(("tracker", "beta"))]


def wandb(folder: Path, *arguments: str) -> str:
    """A command of the client, in a folder of its own; what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    call = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(call, capture_output=True, text=True, timeout=400, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_agent_fills_a_sweep_with_our_runs_and_a_second_pass_repeats_none(
    cache: Path, tmp_path: Path, server: Server
) -> None:
    """`wandb sweep sweeps/wandb/demo.yaml` with fewer and smaller runs, `wandb agent`, and both once more."""
    content = yaml.safe_load((sweeps_dir() / "wandb" / "demo.yaml").read_text())
    content["parameters"]["seed"]["values"] = [0, 1]
    content["parameters"]["beta.value"]["values"] = [0.5]
    fixed = [*SETTINGS, f"cache_root={cache}", f"output_root={tmp_path / 'out'}"]
    content["parameters"] |= {key: {"value": yaml.safe_load(value)} for key, value in (s.split("=") for s in fixed)}
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(content))
    expected = read("demo", ["seed=0,1", "beta.value=0.5", *fixed]).jobs
    before: dict[str, float] = {}
    for name in ("sweep0", "sweep1"):
        wandb(tmp_path, "sweep", "demo.yaml")
        wandb(tmp_path, "agent", f"tester/dpo/{name}")
        runs = find_runs(tmp_path / "out")
        assert sorted(run.path.name for run in runs) == sorted(f"{job.name}-{job.id}" for job in expected)
        given = server.sweeps[name]["given"]
        assert len(given) == 2
        for run in runs:
            id = run.attempts()[-1]
            assert id in given, "the id is the one that the agent gave"
            kept = server.runs[id]
            assert (state(run), kept.state, kept.facts["sweep"]) == ("done", "finished", name)
            assert kept.metrics == rows_of(run)
            plain = yaml.safe_load(run.config.read_text())
            assert kept.values["config"]["dataset"] == plain["dataset"]
            assert {"beta.value": plain["beta"]["value"], "seed": plain["seed"]}.items() <= given[id].items()
        written = {run.path.name: run.metrics.stat().st_mtime for run in runs}
        assert before in ({}, written), "a finished run is not repeated"
        before = written
