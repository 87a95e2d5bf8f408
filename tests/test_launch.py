"""Sweeps that survive: resume, extension, failure, kills, neighbours, and one run under two names."""

import random
import time
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.json_files import read_json, write_json
from dpo.records import RunDir
from dpo.reproduce import rows as rows_without_time
from dpo.run import run
from dpo.run_folders import find_runs

from .sweeps import command, finish, kill, start, states
from .test_sweep import question


def table(folder: Path) -> str:
    return (folder / "table.csv").read_text()


@pytest.fixture(scope="module")
def swept(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two betas and two seeds, to be read only."""
    root = tmp_path_factory.mktemp("swept")
    assert main(command(cache, root, "beta.value=0.1,0.3", "seed=0,1")) == 0
    return root / "multirun"


def test_a_sweep_ends_in_one_row_and_one_run_per_grid_point(swept: Path) -> None:
    """table.csv: swept settings, state and the last evaluation."""
    lines = table(swept).splitlines()
    assert lines[0].startswith("run,id,state,error,beta.value,seed,step")
    assert len(lines) == 5 and all(",done,," in line for line in lines[1:])
    assert len({line.split(",")[8] for line in lines[1:]}) == 4  # four losses
    assert len(find_runs(swept)) == 4


def test_a_job_is_the_run_that_train_makes(swept: Path, cache: Path, tmp_path: Path) -> None:
    """Row by row, whatever ran before it in the process."""
    from dpo.config import load

    overrides = [o for o in command(cache, tmp_path)[2:] if not o.startswith("-")]
    for beta, seed in ((0.1, 1), (0.3, 0)):
        alone = run(load([*overrides, f"beta.value={beta}", f"seed={seed}"]))[0]
        [among] = swept.glob(f"beta{beta}-seed{seed}-*")
        assert rows_without_time(RunDir(among)) == rows_without_time(alone)


def test_job_order_changes_nothing(swept: Path, cache: Path, tmp_path: Path) -> None:
    """The same grid backwards, with a run of another adapter before it."""
    assert main(command(cache, tmp_path, "adapter=lora_all_linear", "seed=7")) == 0
    assert main(command(cache, tmp_path, "seed=1,0", "beta.value=0.3,0.1")) == 0
    for path in swept.glob("beta*"):
        run_id = path.name.rsplit("-", 1)[1]
        [other] = (tmp_path / "multirun").glob(f"*-{run_id}")
        assert rows_without_time(RunDir(other)) == rows_without_time(RunDir(path))


def test_the_directory_is_the_last_line_on_stdout_and_a_second_call_runs_nothing(
    swept: Path, cache: Path, capsys
) -> None:
    """Finished runs are untouched."""
    before = {path: path.stat().st_mtime_ns for path in swept.glob("*/*")}
    assert main(command(cache, swept.parent, "beta.value=0.1,0.3", "seed=0,1")) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(swept) and "4 done before, 0 to run" in said.err
    assert {path: path.stat().st_mtime_ns for path in swept.glob("*/*")} == before


def test_another_value_adds_only_its_runs(cache: Path, tmp_path: Path, capsys) -> None:
    """And the table has all of them, in the order of the larger grid."""
    assert main(command(cache, tmp_path, "beta.value=0.3", "seed=0,1")) == 0
    assert main(command(cache, tmp_path, "beta.value=0.1,0.3", "seed=0,1")) == 0
    assert "2 done before, 2 to run" in capsys.readouterr().err
    runs = [line.split(",")[0] for line in table(tmp_path / "multirun").splitlines()[1:]]
    assert len(runs) == 4 and [name.rsplit("-", 1)[0] for name in runs[2:]] == ["seed0", "seed1"]


def test_a_failure_is_a_state_a_line_and_an_exit_code_and_others_go_on(cache: Path, tmp_path: Path, capsys) -> None:
    """Then the same command runs only the failed one. (A device that is not there: a job's own wrong input.)"""
    import dpo.loop

    honest = dpo.loop.optimizer_step

    def faulty(trainee, *rest):
        if trainee.seed == 1:
            raise MemoryError("planted")
        return honest(trainee, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo.loop, "optimizer_step", faulty)
        assert main(command(cache, tmp_path, "seed=0,1,2")) == 1
    said = capsys.readouterr()
    assert "failed: MemoryError: planted" in said.err and said.out.splitlines()[-1] == str(tmp_path / "multirun")
    assert states(tmp_path / "multirun") == {0: "done", 1: "failed", 2: "done"}
    [failed] = (tmp_path / "multirun").glob("seed1-*")
    assert "planted" in RunDir(failed).status()["traceback"]
    assert "MemoryError: planted" in table(tmp_path / "multirun")
    assert main(command(cache, tmp_path, "seed=0,1,2")) == 0
    assert "2 done before, 1 to run" in capsys.readouterr().err
    assert "planted" not in table(tmp_path / "multirun")


def test_on_failure_stop_leaves_the_rest_alone(cache: Path, tmp_path: Path, capsys) -> None:
    """What comes after the failed job stays pending. (A prompt longer than max_length fails as the job starts.)"""
    overrides = ["train.max_length=128,3,129", "sweep.on_failure=stop"]
    assert main(command(cache, tmp_path, *overrides)) == 1
    assert "1 done, 1 failed, 1 pending" in capsys.readouterr().err


def test_wrong_input_of_one_job_is_a_row_of_the_table(cache: Path, tmp_path: Path) -> None:
    """A run that would leave nothing behind leaves its state in a sweep."""
    assert main(command(cache, tmp_path, "train.max_length=3,128")) == 1
    assert "leaves no token for an answer" in table(tmp_path / "multirun").splitlines()[1]


def test_a_run_of_another_sweep_is_linked_and_said(swept: Path, cache: Path, tmp_path: Path, capsys) -> None:
    """Two directories, one computation; the copy is a whole run with the same rows."""
    path = question(tmp_path, "beta.value: 0.1,0.3", "seed: 0")
    arguments = ["sweep", path, *command(cache, swept.parent)[2:], "beta.value=0.1,0.3"]
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("finished there; linked, not repeated") == 2
    [copy] = (swept.parent / "asked").glob("beta0.3-seed0-*")
    original = swept / copy.name
    assert rows_without_time(RunDir(copy)) == rows_without_time(RunDir(original))
    assert RunDir(copy).status() == {"state": "done", "copied_from": f"multirun/{copy.name}"}
    assert {p.name for p in copy.iterdir()} >= {"summary.json", "checkpoint", "pairs", "curves.svg"}


def test_changed_code_is_reported_and_rerun_only_on_request(cache: Path, tmp_path: Path, capsys) -> None:
    """The difference by file; the old run is set aside, not lost."""
    arguments = command(cache, tmp_path, "seed=0,1")
    assert main(arguments) == 0
    [path] = (tmp_path / "multirun").glob("seed1-*")
    facts = read_json(path / "provenance.json")
    facts["code"] |= {"losses/sigmoid.py": "0", "losses/lost.py": "1"}
    write_json(path / "provenance.json", facts)
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert f"{path.name} (done) was made before: dpo/losses/lost.py gone, dpo/losses/sigmoid.py changed" in said
    assert "2 done before, 0 to run" in said
    assert main([*arguments, "--rerun-changed"]) == 0
    assert "1 done before, 1 to run" in capsys.readouterr().err
    assert RunDir(path).read("provenance")["code"]["losses/sigmoid.py"] != "0"
    assert len(find_runs(tmp_path / "multirun")) == 2
    assert (tmp_path / "multirun" / ".superseded" / f"{path.name}.1" / "metrics.jsonl").is_file()


def test_changed_data_is_refused(cache: Path, tmp_path: Path, capsys) -> None:
    """A data file by its content, not by its date; on request the runs are set aside and made of it."""
    from .test_cli import pairs_of_twelve

    file = pairs_of_twelve(tmp_path / "pairs.jsonl")
    arguments = command(cache, tmp_path / "out", "dataset=files", f"dataset.path={file}", "seed=0,1")
    assert main(arguments) == 0
    file.touch()
    assert main(arguments) == 0
    assert "was made before" not in capsys.readouterr().err
    file.write_text(file.read_text().replace("Paris", "Lyon"))
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert f"{file} changed from " in line and "--rerun-changed" in line
    assert main([*arguments, "--rerun-changed"]) == 0
    assert "2 to run" in capsys.readouterr().err


@pytest.mark.parametrize(("mark", "said"), [("sweep.json", "the folder of a sweep"), ("status.json", "of a run")])
def test_an_output_root_inside_another_sweep_or_run_is_refused(mark: str, said: str, cache, tmp_path, capsys) -> None:
    """Before job 0, in one line."""
    (tmp_path / mark).write_text('{"sweep": "beta"}')
    assert main(command(cache, tmp_path / "deeper", "seed=0,1")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and len(lines) == 1 and not (tmp_path / "deeper").exists()


def test_a_folder_that_holds_something_else_is_refused(cache: Path, tmp_path: Path, capsys) -> None:
    """Another sweep's folder under this name, or files that no sweep made."""
    (tmp_path / "multirun").mkdir()
    (tmp_path / "multirun" / "notes.txt").write_text("mine")
    assert main(command(cache, tmp_path, "seed=0,1")) == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    (tmp_path / "multirun" / "sweep.json").write_text('{"sweep": "beta"}')
    assert main(command(cache, tmp_path, "seed=0,1")) == 2
    assert "holds the sweep beta" in capsys.readouterr().err


def test_twelve_jobs_make_one_reference_pass(tmp_path: Path) -> None:
    """beta x loss x seed on one model and one list of pairs (train = evaluation): computed once, found 23 times."""
    grid = ["beta.value=0.1,0.3", "loss=sigmoid,ipo", "seed=0,1,2"]
    assert main(command(tmp_path / "cache", tmp_path / "out", *grid, "train.max_steps=1")) == 0
    stores = [run.read("provenance")["reference_store"] for run in find_runs(tmp_path / "out")]
    assert sum(store["misses"] for store in stores) == 1 and sum(store["hits"] for store in stores) == 23


@pytest.mark.slow
def test_a_sweep_killed_at_five_random_moments_ends_with_the_table_of_an_uninterrupted_one(cache, tmp_path) -> None:
    """SIGKILL, the same command, over and over: equal byte for byte; what was finished is untouched."""
    grid = ["beta.value=0.1,0.3,1", "loss=sigmoid,ipo", "seed=0,1", "train.max_steps=12"]
    begin = time.monotonic()
    assert finish(command(cache, tmp_path / "whole", *grid))[0] == 0
    pace = (time.monotonic() - begin) / 6  # about two runs' time, whatever else the machine does
    draw = random.Random(time.time_ns())
    folder, finished = tmp_path / "cut" / "multirun", {}
    for _ in range(5):
        before = len(list(folder.glob("*/metrics.jsonl")))
        process = start(command(cache, tmp_path / "cut", *grid))
        while process.poll() is None and len(list(folder.glob("*/metrics.jsonl"))) <= before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, pace))
        kill(process)
        done = [r for r in find_runs(folder) if r.status()["state"] == "done"]
        for path in (path for r in done for path in r.path.rglob("*") if path.is_file()):
            if path.name != ".lock":
                assert finished.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert 0 < len({path.parent for path in finished if path.name == "metrics.jsonl"}) < 12
    assert finish(command(cache, tmp_path / "cut", *grid))[0] == 0
    assert table(folder) == table(tmp_path / "whole" / "multirun")
    for path in folder.glob("*/metrics.jsonl"):
        other = RunDir(tmp_path / "whole" / "multirun" / path.parent.name)
        assert rows_without_time(RunDir(path.parent)) == rows_without_time(other)
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())


@pytest.mark.slow
def test_raising_nan_and_killed_jobs_let_all_others_finish_and_a_retry_runs_the_three(cache, tmp_path) -> None:
    """The killed process takes its neighbours with it; the same command runs those first."""
    arguments, folder = command(cache, tmp_path, "seed=0,1,2,3,4,5"), tmp_path / "multirun"
    faults = "1=raise,2=nan,3=kill"
    assert finish(arguments, faults)[0] == -9
    assert states(folder) == {0: "done", 1: "failed", 2: "failed", 3: "interrupted"}
    code, _, said = finish(arguments, faults)
    assert code == -9 and "1 done before, 5 to run" in said
    assert states(folder) == {0: "done", 1: "failed", 2: "failed", 3: "interrupted", 4: "done", 5: "done"}
    assert "failed: RuntimeError: planted" in said and "failed: FloatingPointError: train/loss is nan at step 4" in said
    code, _, said = finish(arguments)
    assert code == 0 and "3 done before, 3 to run" in said
    assert table(folder).count(",done,") == 6


@pytest.mark.slow
def test_memory_that_cannot_be_had_fails_one_job_and_the_next_one_trains(cache: Path, tmp_path: Path) -> None:
    """The allocator's own error, from a tensor larger than any machine."""
    code, _, said = finish(command(cache, tmp_path, "seed=4,5"), "4=memory")
    assert code == 1 and states(tmp_path / "multirun") == {4: "failed", 5: "done"}
    assert "RuntimeError" in said and "memory" in table(tmp_path / "multirun").splitlines()[1]


@pytest.mark.slow
def test_two_processes_share_a_sweep(cache: Path, tmp_path: Path) -> None:
    """Both end with every run done, and each run is trained once."""
    arguments = command(cache, tmp_path, "seed=0,1,2,3,4,5")
    both = [start(arguments), start(arguments)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert set(states(tmp_path / "multirun").values()) == {"done"}
    assert sum(text.count("reference log-probs: ") for text in said) == 6


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "local"])
def test_another_launcher_gives_the_table_of_basic(launcher: str, swept: Path, cache: Path, tmp_path: Path) -> None:
    """Two joblib workers, or a submitit process per job: byte for byte."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    grid = ["beta.value=0.1,0.3", "seed=0,1", f"hydra/launcher={launcher}"]
    assert finish(command(cache, tmp_path, *grid))[0] == 0
    assert table(tmp_path / "multirun") == table(swept)


@pytest.mark.slow
def test_a_failure_in_a_worker_process_is_a_row_too(cache: Path, tmp_path: Path) -> None:
    """joblib: the others finish, the exit code is 1."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = ["train.max_length=128,3,129", "hydra/launcher=processes"]
    code, _, said = finish(command(cache, tmp_path, *grid))
    assert code == 1 and "2 done, 1 failed" in said
