"""`dpo judge` as it is typed: files, identity, kills, another policy, a reward model, and bad input."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from dpo import judge as judging
from dpo.__main__ import main
from dpo.config import load
from dpo.data.files import read_pairs
from dpo.data.judge import JudgedDir
from dpo.errors import UsageError
from dpo.json_files import read_json
from dpo.records import RunDir
from dpo.reward import score_pairs

from .chat_server import Server, longer_wins, said
from .processes import DPO, ROOT, Python

TINY = [
    "model=tiny_byte",
    "model.steps=5",
    "model.width=32",
    "dataset=twelve",
    "sft.epochs=60",
    "train.max_length=128",
    "train.threads=1",
]
"""The start of the small runs: two blocks over bytes, that end most of their answers."""
QUICK = ["judge.samples=3", "judge.max_new_tokens=24", "judge.batch_size=5"]
LENGTH = ["judge=length", *QUICK]


@pytest.fixture
def typed(cache: Path, tmp_path: Path):
    """typed(*overrides) -> what one types after `dpo judge`, below this test's own output root."""
    return lambda *overrides: [*TINY, f"cache_root={cache}", f"output_root={tmp_path / 'out'}", *overrides]


@pytest.fixture
def made(typed, capsys):
    """made(*overrides) -> the folder that `dpo judge` printed."""

    def make(*overrides: str) -> JudgedDir:
        assert main(["judge", *typed(*overrides)]) == 0
        return JudgedDir(Path(capsys.readouterr().out.splitlines()[-1]).parent)

    return make


def no_model(*_: object, **__: object) -> None:
    raise AssertionError("a model was loaded")


def test_pairs_and_provenance_are_on_disk_ready_for_dataset_files(made) -> None:
    """The shorter of three answers is chosen; each side can be found among the answers by sample and seed."""
    folder = made(*LENGTH)
    rows = [json.loads(line) for line in folder.pairs.read_text().splitlines()]
    answers = [json.loads(line) for line in (folder.path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 36 and len({(row["prompt"], row["sample"]) for row in answers}) == 36
    by_seed = {row["seed"]: row["text"] for row in answers}
    facts = read_json(folder.provenance)
    assert rows and facts["counts"]["pairs"] == len(rows) == len(read_pairs(folder.pairs))
    for row in rows:
        assert len(row["chosen"]) < len(row["rejected"]) and row["made_by"]["judge"] == "length"
        assert all(by_seed[row["made_by"][side]["seed"]] == row[side] for side in ("chosen", "rejected"))
        assert row["made_by"]["checkpoint_hash"] == facts["policy"]["checkpoint_hash"]
    counts = facts["counts"]
    ends = ("pairs", "ties", "disagreements", "no_verdict", "chosen_cut")
    assert sum(counts[name] for name in ends) == counts["questions"] == counts["prompts"] - counts["identical_answers"]
    assert facts["made_with"]["versions"]["torch"] and facts["config"]["judge"]["samples"] == 3


def test_a_finished_folder_is_found_without_a_model(made, monkeypatch, capsys) -> None:
    """The same command again says so and prints the same path; no file changes."""
    folder = made(*LENGTH)
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.name != ".lock"}
    monkeypatch.setattr(judging, "load_weights", no_model)
    assert made(*LENGTH).path == folder.path
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.name != ".lock"}


def test_pairs_that_were_changed_are_restored(made, monkeypatch) -> None:
    """From the answers and verdicts, byte for byte, without a model."""
    folder = made(*LENGTH)
    whole = folder.pairs.read_bytes()
    folder.pairs.write_bytes(whole[:-40])
    monkeypatch.setattr(judging, "load_weights", no_model)
    assert made(*LENGTH).pairs.read_bytes() == whole


def test_other_batches_make_the_same_pairs_in_the_same_folder(made) -> None:
    """Speed is no part of the identity, and changes no answer."""
    folder = made(*LENGTH)
    answers = {path.name: sorted(path.read_text().splitlines()) for path in folder.path.glob("*.jsonl")}
    shutil.rmtree(folder.path)
    again = made(*LENGTH, "judge.batch_size=64")
    assert again.path == folder.path
    assert {path.name: sorted(path.read_text().splitlines()) for path in again.path.glob("*.jsonl")} == answers


@pytest.mark.parametrize(
    "other", ["judge.seed=1", "judge.temperature=0.5", "judge.wins=longer", "judge.prompts=5", "sft.epochs=2"]
)
def test_what_decides_answers_or_verdicts_is_another_folder(made, other) -> None:
    """Judge settings, prompts, and the policy by its weights."""
    assert made(*LENGTH).path != made(*LENGTH, other).path


KILLED_AT_BATCH = """
import os, signal, sys
from dpo import judge
from dpo.__main__ import main
honest, calls = judge.sample_each, []
def answer(model, tokenizer, prompts, seeds, *rest):
    calls.append(seeds)
    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)
    print('asked', *seeds, flush=True)
    return honest(model, tokenizer, prompts, seeds, *rest)
judge.sample_each = answer
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_sampling_it_loses_nothing_and_draws_nothing_twice(made, typed) -> None:
    """SIGKILL at the third of eight batches; the same command ends with the files of an undisturbed one."""
    whole = made(*LENGTH)
    files = {path.name: path.read_bytes() for path in whole.path.glob("*.jsonl")}
    shutil.rmtree(whole.path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    cut = Python(KILLED_AT_BATCH, "judge", *typed(*LENGTH), env=environment)
    assert cut.wait() == -signal.SIGKILL
    kept = (whole.path / "answers.jsonl").read_bytes()
    assert files["answers.jsonl"].startswith(kept) and kept.count(b"\n") == 10
    (whole.path / "answers.jsonl").write_bytes(kept + files["answers.jsonl"][len(kept) :][:20])  # and half a line
    again = Python(KILLED_AT_BATCH.replace("== 3", "== 99"), "judge", *typed(*LENGTH), env=environment)
    assert again.wait() == 0
    drawn = [line.split()[1:] for line in (cut.said()[0] + again.said()[0]).splitlines() if line.startswith("asked")]
    seeds = [seed for batch in drawn for seed in batch]
    assert len(seeds) == len(set(seeds)) == 36
    assert {path.name: path.read_bytes() for path in whole.path.glob("*.jsonl")} == files


def endpoint(url: str, *more: str) -> list[str]:
    """A judge behind this address that is not waited for."""
    patience = ["judge.backoff=0", "judge.retries=1", "judge.workers=1", "judge.key_variable=null"]
    return ["judge=endpoint", *QUICK, f"judge.url={url}", *patience, *more]


def test_killed_while_judging_it_asks_nothing_twice(made, typed) -> None:
    """SIGKILL of a real process after a third of the replies: every comparison is answered once, as without a kill."""
    with Server(longer_wins) as server:
        settings = endpoint(server.url)
        whole = made(*settings)
        files = {name: (whole.path / name).read_bytes() for name in ("pairs.jsonl", "verdicts.jsonl", "replies.jsonl")}
        expected, third = server.comparisons(), len(server.asked) // 3
        assert third >= 3
        for name in (*files, "provenance.json"):
            (whole.path / name).unlink()
        server.asked.clear()
        server.stop_at = third
        process = Python(DPO, "judge", *typed(*settings))
        replies = whole.path / "replies.jsonl"
        while not (replies.exists() and replies.read_bytes().count(b"\n") == third):
            assert process.poll() is None, process.said()[1]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        server.hold.set()
        cut = len(server.asked)
        assert cut <= third + 1  # at most one was under way
        server.stop_at = None
        made(*settings)
        asked = server.comparisons()
        assert asked[:third] == expected[:third] and asked[cut:] == expected[third:]
    assert {name: (whole.path / name).read_bytes() for name in files} == files


def test_a_server_that_breaks_down_is_one_line_and_exit_code_1(typed, tmp_path, capsys) -> None:
    """Nothing half-written, everything kept: the same command goes on where it stopped."""
    with Server(lambda n, body: longer_wins(n, body) if n <= 6 else (500, b"", {})) as server:
        settings = typed(*endpoint(server.url))
        assert main(["judge", *settings]) == 1
        err = capsys.readouterr().err.strip().splitlines()[-1]
        assert err.startswith("dpo: JudgeError: judge.url=") and "the same command goes on" in err
        (folder,) = (JudgedDir(path) for path in (tmp_path / "out" / "judged").iterdir())
        assert not folder.pairs.exists() and not folder.provenance.exists()
        assert (folder.path / "replies.jsonl").read_text().count("\n") == 6


def test_a_judge_that_talks_nonsense_is_given_up(typed, capsys) -> None:
    """Exit 1 with the share and the setting; no pairs."""
    with Server(lambda n, body: (200, said("I like turtles"), {})) as server:
        assert main(["judge", *typed(*endpoint(server.url))]) == 1
    assert "questions have no verdict in the judge's replies" in capsys.readouterr().err.splitlines()[-1]


def test_the_key_is_found_in_no_file(typed, made, monkeypatch, tmp_path) -> None:
    """Sent with every request, written nowhere."""
    monkeypatch.setenv("TOY_KEY", "sk-a-secret-0123456789")
    with Server(longer_wins) as server:
        made(*endpoint(server.url), "judge.key_variable=TOY_KEY")
        assert server.headers[0]["Authorization"].endswith("sk-a-secret-0123456789")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"a-secret" in path.read_bytes()]


def test_a_runs_policy_answers_with_its_adapter(made, finished: RunDir, tmp_path) -> None:
    """judge.run takes model and data from the run; the trained adapter answers otherwise than its start."""
    root = [f"output_root={tmp_path / 'out'}"]
    argv = ["judge", f"judge.run={finished.path}", *LENGTH, *root]
    assert main(argv) == 0
    start = made(*LENGTH)
    (trained,) = (path for path in (tmp_path / "out" / "judged").iterdir() if path != start.path)
    facts = read_json(trained / "provenance.json")
    assert facts["policy"]["run"] == str(finished.path) and facts["config"]["adapter"]["r"]
    texts = [(path / "answers.jsonl").read_text() for path in (trained, start.path)]
    assert texts[0] != texts[1]


def test_a_reward_model_judges_as_it_scores(made, typed, capsys) -> None:
    """The verdict's scores are the rewards that `dpo score` gives the pairs."""
    train = ["train.max_steps=4", "optim.lr=3e-3", "tracker=disabled"]
    assert main(["reward", *typed(*train)]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    folder = made("judge=reward", *QUICK, f"judge.path={path}")
    rows = [json.loads(line) for line in folder.pairs.read_text().splitlines()]
    ids, scored, _ = score_pairs(RunDir(Path(path)), folder.pairs)
    assert ids == [row["id"] for row in rows]
    for i, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            kept = row["made_by"]["said"]["scores"][str(row["made_by"][side]["sample"])]
            assert kept == pytest.approx(float(scored.values[f"{side}_reward"][i]), abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["judge.run=/no/such/folder"], "judge.run=/no/such/folder: no such folder"),
        (["judge.run=RUNNING"], "state is interrupted; only a finished run"),
        (["judge.samples=1"], "judge.samples=1: must be at least 2"),
        (["judge=endpoint"], "judge.url is not set"),
        (["judge=endpoint", "judge.url=http://h/v1", "judge.key_variable=NO_KEY"], "judge.key_variable=NO_KEY"),
        (["judge=endpoint", "judge.url=http://h/v1", "judge.rubric=/no/file"], "judge.rubric=/no/file: cannot be read"),
        (["judge=rules_regex", "judge.pattern='(['"], "not a regular expression"),
        (["judge=reward", "judge.path=/no/such/folder"], "no finished reward model here"),
        (["judge.prompts=99"], "judge.prompts=99: the data set has 12 different training prompts"),
        (["train.max_length=3"], "leaves no"),
        (["beta.value=0.3"], "beta.value=0.3: dpo judge reads no beta.value here, so it would change nothing"),
        (["seed=1"], "judge.seed decides the answers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(overrides, text, typed, tmp_path, capsys) -> None:
    """Nothing is written."""
    running = tmp_path / "running"
    running.mkdir()
    RunDir(running).set_status("running")
    given = [override.replace("RUNNING", str(running)) for override in overrides]
    base = typed() if "judge.run" not in given[0] else [f"output_root={tmp_path / 'out'}"]
    assert main(["judge", *base, *given]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and text in err[0]
    assert not (tmp_path / "out" / "judged").exists()


def test_with_a_run_its_own_settings_are_not_overridden(finished: RunDir) -> None:
    """The model is the run's; where it is computed, and another data set, may be said."""
    with pytest.raises(UsageError, match="model=tiny: dpo judge reads no model here"):
        judging.from_overrides([f"judge.run={finished.path}", "model=tiny"])
    config = judging.from_overrides([f"judge.run={finished.path}", "dataset=hand_authored", "train.device=cpu"])
    assert type(config.dataset).__name__ == "HandAuthored" and config.plain["model"]["tokenizer_kind"] == "byte"
    assert config.train.device == "cpu" and config.train.max_length == load([*TINY]).train.max_length


def test_no_pairs_at_all_is_a_failure_that_says_so(typed, capsys) -> None:
    """Twelve ties: nothing to train on."""
    assert main(["judge", *typed("judge=rules_regex", "judge.pattern='zzzzz'", *QUICK)]) == 1
    assert "(ties 12); change the judge" in capsys.readouterr().err.splitlines()[-1]
