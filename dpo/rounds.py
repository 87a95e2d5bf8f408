"""`dpo train` in rounds: train, let the policy answer, judge, train again on what came of it (online collection).

Every round begins at the same start and is a run of its own, so that rounds differ in their pairs alone.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from dpo import judge as judging
from dpo.cache import key
from dpo.config import Config, identity, parse
from dpo.console import summary
from dpo.data.judge import JudgedDir
from dpo.data.judged import Judged
from dpo.json_files import read_json, write_json
from dpo.locks import lock_of_folder, locked
from dpo.past import TRUSTED
from dpo.progress import say
from dpo.records import RunDir
from dpo.run import run
from dpo.terminal import Sheet
from dpo.tracking.shown import short_name


def rounds(config: Config) -> RunDir:
    """All rounds, or those that are missing; the directory of the last one. rounds.json lists them beside the runs."""
    name = f"{short_name(config.plain)}-seed{config.seed}-{key(identity(config.plain), rule(config))[:8]}"
    folder = Path(config.output_root) / "rounds" / name
    plain = single(config, name)
    TRUSTED.set(config.model.trust_remote_code or TRUSTED.get())  # this very command says so, also of its own rounds
    judged: JudgedDir | None = None
    if config.begins_with_answers:
        say("before round 1: the start answers")
        judged = judge_round(plain, None, 0)
        plain["dataset"] = judged_set(judged, append=False)
    done: list[dict[str, Any]] = []
    for number in range(1, config.rounds + 1):
        say(f"round {number} of {config.rounds}")
        this = parse(copy.deepcopy(plain))
        directory, finished = run(this, RunDir(folder / f"round{number}-{identity(this.plain)}"))
        if finished:
            say(f"already finished, not repeated: {directory.path}")
        else:
            summary(directory)
        done.append(record(number, directory, judged))
        keep(folder / "rounds.json", done)
        if number < config.rounds:
            judged = judge_round(plain, directory, number)
            plain["dataset"] = judged_set(judged, config.judge.append)
    show(done)
    return directory


def rule(config: Config) -> list[Any]:
    """What of the judge makes other rounds: its settings, what is behind its paths, and how rounds follow."""
    return [judging.deciding(config), config.judge.facts(), config.begins_with_answers, config.judge.append]


def single(config: Config, group: str) -> dict[str, Any]:
    """The settings of one round by itself, tracked in the group of all."""
    plain = copy.deepcopy(config.plain)
    plain["rounds"] = 1
    plain["judge"] |= {"run": None, "from_start": False}
    plain["tracker"]["group"] = config.tracker.group or group
    return plain


def judge_round(plain: dict[str, Any], policy: RunDir | None, number: int) -> JudgedDir:
    """The judged samples of a round's policy, or of the start before the first; each with a seed of its own."""
    settings = copy.deepcopy(plain)
    settings["judge"]["run"] = str(policy.path) if policy else None
    settings["judge"]["seed"] += number
    return judging.make(parse(settings))


def judged_set(judged: JudgedDir, append: bool) -> dict[str, Any]:
    """The data set of the round that follows."""
    return {"_target_": f"{Judged.__module__}.{Judged.__qualname__}", "path": str(judged.path), "append": append}


def record(number: int, directory: RunDir, judged: JudgedDir | None) -> dict[str, Any]:
    """What a round trained on and where."""
    pairs = read_json(directory.path / "audit.json")["train"]["pairs"]
    result = directory.read("summary")
    return {
        "round": number,
        "run": str(directory.path),
        "judged": str(judged.path) if judged else None,
        "pairs": pairs,
        "first": result["first"],
        "last": result["last"],
    }


def keep(path: Path, done: list[dict[str, Any]]) -> None:
    """Write what is done so far, and what an earlier command with more rounds did beyond it."""
    with locked(lock_of_folder(path.parent), str(path)):
        earlier = read_json(path)["rounds"] if path.exists() else []
        write_json(path, {"rounds": [*done, *earlier[len(done) :]]})


def show(done: list[dict[str, Any]]) -> None:
    """A line for each round."""
    wanted = ("rewards/accuracies", "rewards/margins", "kl", "json_rate", "samples/length")
    names = [name for name in wanted if f"eval/{name}" in done[0]["last"]]
    columns = ("round", "pairs", *names)
    sheet = Sheet("Rounds", columns, right=columns)
    start = done[0]["first"]
    sheet.add("start", "", *(f"{start.get(f'eval/{name}', float('nan')):.4f}" for name in names))
    for row in done:
        values = (f"{row['last'].get(f'eval/{name}', float('nan')):.4f}" for name in names)
        sheet.add(row["round"], f"{row['pairs']:,}", *values)
    sheet.show()
