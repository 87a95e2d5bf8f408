"""A question file becomes typed jobs: what is one run, what a run is called, what is refused before job 0."""

import time
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.compose import Primary, composer
from dpo.config import identity, load
from dpo.errors import UsageError
from dpo.sweep import find, read, threads_of

HEAD = """# What is asked?
# Budget: seconds.
defaults: [config, _self_]
hydra:
  searchpath: ["file://${oc.env:DPO_CONF,conf}"]
  sweeper:
    params:
"""


def question(folder: Path, *params: str, more: str = "", name: str = "asked") -> str:
    """The path of a sweep file with these lines under hydra.sweeper.params."""
    path = folder / f"{name}.yaml"
    path.write_text(HEAD + "".join(f"      {line}\n" for line in params) + more)
    return str(path)


def test_a_grid_is_the_product_of_its_values_by_hydras_grammar(tmp_path: Path) -> None:
    """Lists, ranges and choices, the last key fastest."""
    sweep = read(question(tmp_path, "beta.value: 0.1,0.3", "seed: range(0,3)"), [])
    points = [(job.plain["beta"]["value"], job.plain["seed"]) for job in sweep.jobs]
    assert points == [(b, s) for b in (0.1, 0.3) for s in (0, 1, 2)]
    assert sweep.question == "What is asked? Budget: seconds." and sweep.name == "asked"


def test_every_job_is_what_hydra_composes_for_it(tmp_path: Path) -> None:
    """The short way to a job's values and Hydra's own way give the same run."""
    path = find(question(tmp_path, "loss: sigmoid,ipo", "adapter: full,dora", "+train.max_steps: 3", "seed: 1"))
    path.write_text(path.read_text().replace("+train.max_steps", "train.max_steps") + "optim:\n  lr: 1.0e-5\n")
    compose = composer(Primary(path))
    for job in read(str(path), []).jobs:
        slow = load([*job.overrides, "optim.lr=1.0e-5"]).plain
        assert job.plain == slow and job.id == identity(slow)
        assert compose(list(job.overrides))["beta"]["value"] == slow["beta"]["value"]


def test_a_default_that_depends_on_another_choice_follows_it() -> None:
    """beta.value of each loss is that loss's usual one, and sft of each model its own."""
    jobs = read(None, ["loss=sigmoid,ipo", "model=tiny,tiny_byte"]).jobs
    for job in jobs:
        assert job.plain == load(list(job.overrides)).plain


def test_names_say_what_was_swept() -> None:
    """Options by themselves, values with the last word of their key, the seed last."""
    jobs = read(None, ["seed=2,3", "beta.value=0.1,1", "loss=ipo,sigmoid", "optim.lr=1e-5,2e-4"]).jobs
    assert jobs[0].name == "beta0.1-ipo-lr1e-05-seed2"
    assert len({job.name for job in jobs}) == len({job.id for job in jobs}) == 16


def test_keys_with_the_same_last_word_are_told_apart() -> None:
    """optim.lr and sft.lr in one grid."""
    job = read(None, ["optim.lr=1e-5,2e-5", "sft.lr=0.001,0.002"]).jobs[0]
    assert job.name == "optim_lr1e-05-sft_lr0.001"


def test_a_narrowed_grid_keeps_the_names_of_its_runs(tmp_path: Path) -> None:
    """One value of a swept key still stands in the name."""
    path = question(tmp_path, "beta.value: 0.1,0.3", "seed: 0,1")
    whole_grid, one = read(path, []), read(path, ["beta.value=0.3", "seed=1"])
    assert [(job.id, job.name) for job in one.jobs] == [(j.id, j.name) for j in whole_grid.jobs[-1:]]


def test_the_command_extends_a_grid(tmp_path: Path) -> None:
    """More values and more keys; the jobs that were there keep their ids."""
    path = question(tmp_path, "beta.value: 0.1,0.3", "seed: 0")
    before = {job.id for job in read(path, []).jobs}
    after = {job.id for job in read(path, ["beta.value=0.1,0.3,1", "seed=0,1"]).jobs}
    assert before < after and len(after) == 6


@pytest.mark.parametrize("values", ["0.1,1e-1", "1,1.0", "0.30,0.3,3e-1"])
def test_two_spellings_are_one_run_and_are_said_to_be(values: str) -> None:
    """Dropped with a notice that names both."""
    sweep = read(None, [f"beta.value={values}"])
    assert len(sweep.jobs) == 1 and len(sweep.notices) == values.count(",")
    assert "same run as beta.value=" in sweep.notices[0]


def test_what_cannot_change_a_result_makes_no_second_job() -> None:
    """Swept trackers are one run."""
    assert len(read(None, ["tracker=disabled,offline", "seed=0,1"]).jobs) == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.lrr=1,2"], "unknown key optim.lrr (did you mean optim.lr?)"),
        (["beta.value=0.1,x"], "job 2 of 2 (beta.value=x): beta.value='x': must be a number"),
        (["loss=sigmoid,ipp"], "unknown option loss=ipp (did you mean ipo?)"),
        (["loss=ipo,sigmoid", "beta.value=0,1"], "beta.value=0.0: must be above 0"),
        (["beta.value=range(0,0)"], "the grid is empty"),
        (["beta.value=choice()"], "empty choice"),
        (["sweep.on_failure=halt"], "sweep.on_failure='halt': must be one of go_on, stop"),
        (["sweep.on_falure=stop"], "unknown key sweep.on_falure (did you mean sweep.on_failure?)"),
        (["output_root=a,b"], "output_root cannot be swept"),
        (["hydra/launcher=nix"], "hydra/launcher/nix: no such option"),
        (["dataset=files,twelve"], "dataset.path is not set"),
    ],
)
def test_a_wrong_job_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    """Before any job, and naming the job."""
    with pytest.raises(UsageError) as caught:
        read(None, overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (["optim.lrr: 1,2"], "did you mean optim.lr?"),
        (["beta.value: 0.1,fast"], "job 2 of 2 (beta.value=fast): beta.value='fast': must be a number"),
        ([], "the grid is empty"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_is_written(params: list[str], said: str, tmp_path: Path, capsys) -> None:
    """Exit 2, one line, no folder."""
    path = question(tmp_path, *params)
    assert main(["sweep", path, f"output_root={tmp_path / 'out'}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and len(lines) == 1 and not (tmp_path / "out").exists()


def test_an_unknown_sweep_names_the_nearest(capsys) -> None:
    """`dpo sweep betta`."""
    assert main(["sweep", "betta"]) == 2
    assert "no sweep betta (did you mean beta?)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["runs", "multirun", "cache", "wandb"])
def test_a_sweep_cannot_take_the_name_of_a_folder_of_every_root(name: str, tmp_path: Path) -> None:
    """Its runs would lie among other things."""
    with pytest.raises(UsageError, match=f"cannot be called {name}"):
        read(question(tmp_path, "seed: 0,1", name=name), [])


def test_fifty_jobs_are_typed_within_five_seconds() -> None:
    """All groups and all values, before job 0; of this process's own time, whoever else is at work."""
    begin = time.process_time()
    assert len(read("beta", ["loss=sigmoid,ipo", "seed=range(0,5)"]).jobs) == 50
    assert time.process_time() - begin < 5


def test_a_sweep_file_may_stop_at_a_failure_and_the_command_has_the_last_word(tmp_path: Path) -> None:
    """`sweep: {on_failure: stop}`; the key never reaches a run."""
    path = question(tmp_path, "seed: 0,1", more="sweep: {on_failure: stop}\n")
    assert read(path, []).rules.on_failure == "stop" and "sweep" not in read(path, []).jobs[0].plain
    assert read(path, ["sweep.on_failure=go_on"]).rules.on_failure == "go_on"
    assert read(None, ["seed=0,1"]).rules.on_failure == "go_on"


@pytest.mark.parametrize("launcher", ["processes", "local", "slurm"])
def test_every_launcher_file_composes_with_its_plugin(launcher: str) -> None:
    """conf/hydra/launcher extends what the plugins offer."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    node = Primary(find("beta"), None, (f"hydra/launcher={launcher}",)).composed([], with_hydra=True).hydra.launcher
    assert "Launcher" in node._target_ and threads_of(node) >= 1
