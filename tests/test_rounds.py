"""`dpo train rounds=N`: each round a run of its own in one group, restartable, and none of it in a single run."""

import json
import os
import signal
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.config import identity, load, parse_file
from dpo.data.judge import JudgedDir
from dpo.data.pair import Split
from dpo.json_files import read_json
from dpo.records import RunDir

from .conftest import SMALL
from .processes import ROOT, Python

LOOP = [*SMALL, "sft.epochs=60", "judge=length", "judge.samples=3", "judge.max_new_tokens=24", "train.max_steps=4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output root of this module."""
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture(scope="module")
def loop(root: Path, cache: Path):
    """loop(*overrides) -> the command, with what it shares."""
    return lambda *more: ["train", *LOOP, f"cache_root={cache}", f"output_root={root}", *more]


@pytest.fixture(scope="module")
def three(root: Path, loop) -> list[dict]:
    """The rows of rounds.json of three rounds."""
    assert main(loop("rounds=3")) == 0
    return listed(root)


def listed(root: Path) -> list[dict]:
    """rounds.json of the only loop below an output root."""
    (path,) = root.glob("rounds/*/rounds.json")
    return read_json(path)["rounds"]


def split_of(row: dict) -> Split:
    """The data of a round."""
    return parse_file(RunDir(Path(row["run"])).config).dataset.load()


def judged_ids(row: dict) -> list[str]:
    """The ids of the pairs that were judged for a round."""
    lines = (Path(row["judged"]) / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_each_round_is_a_finished_run_in_one_folder(three) -> None:
    """Named by its number; the first trains on the data set's own pairs."""
    runs = [RunDir(Path(row["run"])) for row in three]
    assert [run.status()["state"] for run in runs] == ["done"] * 3
    assert len({run.path.parent for run in runs}) == 1
    assert [run.path.name.split("-")[0] for run in runs] == ["round1", "round2", "round3"]
    assert three[0]["judged"] is None and split_of(three[0]).train == load(["dataset=twelve"]).dataset.load().train


def test_the_policy_of_a_round_answers_for_the_next(three) -> None:
    """By its directory in the judged folder's provenance, with a seed of its own."""
    for number in (1, 2):
        facts = read_json(JudgedDir(Path(three[number]["judged"])).provenance)
        assert facts["policy"]["run"] == three[number - 1]["run"]
        assert facts["config"]["judge"]["seed"] == number


def test_pairs_are_appended_to_the_earlier_ones(three) -> None:
    """Round k trains on all pairs of round k - 1 and on the new ones, and is evaluated on the same pairs."""
    splits = [split_of(row) for row in three]
    for number in (1, 2):
        new = set(judged_ids(three[number]))
        earlier = {pair.id for pair in splits[number - 1].train}
        assert {pair.id for pair in splits[number].train} == new | earlier and new - earlier
        assert splits[number].evaluation == splits[0].evaluation
        assert three[number]["pairs"] == len(new | earlier)


def test_every_round_begins_at_the_same_start(three) -> None:
    """And has the same reference: rounds differ in their pairs alone."""
    facts = [RunDir(Path(row["run"])).read("provenance") for row in three]
    assert len({f["start_hash"] for f in facts}) == len({f["reference_hash"] for f in facts}) == 1
    assert len({f["train_data_hash"] for f in facts}) == 3


def test_finished_rounds_are_not_repeated(three, root, loop, capsys) -> None:
    """The same command, and one with fewer rounds, change no file and print the last round's directory."""
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jsonl")}
    assert main(loop("rounds=3")) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == three[2]["run"] and said.err.count("already finished") == 3
    assert main(loop("rounds=2")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == three[1]["run"] and listed(root) == three
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.jsonl")}


def test_a_round_is_reproduced_from_its_run_yaml(three) -> None:
    """As any run."""
    assert main(["reproduce", three[1]["run"]]) == 0


def test_without_append_a_round_trains_on_its_own_pairs_alone(loop, root, three) -> None:
    """judge.append=false is another loop that shares its first judged folder."""
    before = set(root.glob("rounds/*"))
    assert main(loop("rounds=2", "judge.append=false")) == 0
    (folder,) = set(root.glob("rounds/*")) - before
    row = read_json(folder / "rounds.json")["rounds"][1]
    assert [pair.id for pair in split_of(row).train] == judged_ids(row)


def test_judged_samples_of_the_start_can_be_the_first_pairs(loop, root, three, capsys) -> None:
    """judge.from_start=true: one round, whose pairs are the start's own answers and none of the data set's."""
    assert main(loop("judge.from_start=true")) == 0
    run = RunDir(Path(capsys.readouterr().out.splitlines()[-1]))
    config = parse_file(run.config)
    facts = read_json(JudgedDir(Path(config.plain["dataset"]["path"])).provenance)
    assert facts["policy"]["run"] is None and facts["policy"]["checkpoint"] == run.read("provenance")["start"]
    assert {pair.source for pair in config.dataset.load().train} == {"judged by length"}
    assert config.one_run  # its run.yaml is a single run


def test_rounds_and_judge_do_not_change_the_identity_of_a_run() -> None:
    """A single run is called as it always was."""
    plain = load([]).plain
    for other in (["rounds=3"], ["judge=length"], ["judge.samples=9"], ["judge.from_start=true"]):
        assert identity(load(other).plain) == identity(plain)


def test_all_rounds_are_tracked_in_one_group(three) -> None:
    """That of their folder, unless one is given."""
    groups = {parse_file(RunDir(Path(row["run"])).config).tracker.group for row in three}
    assert groups == {Path(three[0]["run"]).parent.name}


@pytest.mark.parametrize("override", ["rounds=2", "judge.from_start=true"])
def test_a_sweep_of_rounds_is_refused(override, loop, capsys) -> None:
    """Rather than run as single runs."""
    assert main([*loop("seed=0,1", override), "-m"]) == 2
    assert "a sweep trains single runs" in capsys.readouterr().err.splitlines()[-1]


KILLED = """
import os, signal, sys
import dpo.loop
from dpo import judge
from dpo.__main__ import main
where, calls = sys.argv[1], []
def once(name, honest, at):
    def call(*given, **named):
        calls.append(name)
        if where == name and calls.count(name) == at: os.kill(os.getpid(), signal.SIGKILL)
        return honest(*given, **named)
    return call
dpo.loop.optimizer_step = once('step', dpo.loop.optimizer_step, 6)
judge.sample_each = once('answer', judge.sample_each, 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "answer"])
def test_killed_in_the_middle_the_same_command_ends_as_an_undisturbed_one(where, cache, tmp_path) -> None:
    """SIGKILL in the second round's training, or while the first round's policy answers: equal rows and pairs."""
    command = ["train", *LOOP, "rounds=2", "judge.batch_size=5", f"cache_root={cache}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    rows = []
    for name, fault in (("whole", ""), ("cut", where)):
        (tmp_path / name).mkdir()
        for planted in (fault, "") if fault else ("",):
            process = Python(KILLED, planted, *command, "output_root=out", cwd=tmp_path / name, env=environment)
            assert process.wait() == (-signal.SIGKILL if planted else 0), process.said()[1]
        made = sorted((tmp_path / name / "out").glob("rounds/*/*/metrics.jsonl"))
        metrics = [[untimed(line) for line in path.read_text().splitlines()] for path in made]
        rows.append((metrics, [path.read_bytes() for path in (tmp_path / name / "out").glob("judged/*/*.jsonl")]))
    assert len(rows[0][0]) == 2 and len(rows[0][1]) == 3 and rows[0] == rows[1]


def untimed(line: str) -> dict:
    """A metric row without wall-clock values."""
    return {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
