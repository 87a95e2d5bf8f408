"""`dpo judge`: which policy answers, which prompts, which judge; the pairs that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dpo.cache import key
from dpo.config import Config, load, parse
from dpo.data import judge as judging
from dpo.data.ends import other_ends
from dpo.data.judge import Asked, JudgedDir, Log
from dpo.data.judges.base import JudgeError
from dpo.data.pair import Text
from dpo.data.templates import render
from dpo.data.tokens import encode_prompt
from dpo.disk import make_folder, tidy
from dpo.errors import UsageError
from dpo.evaluate.samples import Answer, sample_each
from dpo.locks import locked
from dpo.models.pretrained import load_tokenizer
from dpo.progress import say
from dpo.provenance import checkpoint_hash, files_hash, provenance
from dpo.records import RunDir
from dpo.score import finished, load_policy
from dpo.start import default_threads, pick_device, sft_start
from dpo.start import load as load_weights

UNREAD = ("adapter", "beta", "evaluate", "loss", "optim", "perturb", "reference", "rounds", "seed")
"""What samples and verdicts do not depend on: they have judge.seed, and begin from the set's own pairs."""
OF_A_RUN = ("model", "sft", "train")
"""What a finished run decides itself, but for where it is computed."""
WHERE = ("train.device", "train.threads")
VERSION = 2  # raise it when sampling or a judge's rule changes, so that no folder goes on with the old one's answers


def from_overrides(overrides: Sequence[str]) -> Config:
    """The configuration of the command; with judge.run that run's own, with the judge and any data set of the command.

    Raises UsageError for an override that could change nothing.
    """
    config = load(list(overrides))
    named = [override.lstrip("+~").split("=", 1)[0].split("@", 1)[0] for override in overrides]
    unread = UNREAD if config.judge.run is None else (*UNREAD, *OF_A_RUN)
    for override, name in zip(overrides, named, strict=True):
        if name.split(".", 1)[0] in unread and name not in WHERE:
            hint = " (judge.seed decides the answers)" if name == "seed" else ""
            raise UsageError(
                f"{override}: dpo judge reads no {name} here, so it would change nothing; leave it out{hint}"
            )
    if config.judge.run is None:
        return config
    plain = run_config(config.judge.run).plain
    plain |= {name: config.plain[name] for name in ("judge", "output_root", "cache_root")}
    plain["train"] |= {name.split(".")[1]: config.plain["train"][name.split(".")[1]] for name in named if name in WHERE}
    if any(name.split(".", 1)[0] == "dataset" for name in named):
        plain["dataset"] = config.plain["dataset"]
    return parse(plain)


def run_config(path: str) -> Config:
    """The configuration of the finished run in judge.run."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UsageError(f"judge.run={path}: no such folder; give the directory of a finished run")
    return finished(RunDir(folder))


@dataclass(frozen=True)
class Policy:
    """Who answers. Weights are read at the first answer, so that a finished folder costs none."""

    config: Config
    tokenizer: Any
    device: torch.device
    facts: dict[str, Any]
    """What tells its weights from others: where they are, their hash."""

    @cached_property
    def model(self) -> Any:
        """The weights, ready to answer."""
        run = self.config.judge.run
        if run is not None:
            return load_policy(RunDir(Path(run).expanduser()), self.config, self.device).eval()
        return load_weights(self.facts["checkpoint"], self.config).to(self.device).eval()

    def answer(self, prompts: Sequence[Text], seeds: Sequence[int]) -> list[Answer]:
        """A batch of answers, each drawn with its seed."""
        judge, precision = self.config.judge, self.config.train.precision
        limits = judge.max_new_tokens, judge.temperature, precision
        return sample_each(self.model, self.tokenizer, prompts, seeds, *limits)


def policy_of(config: Config, device: torch.device) -> Policy:
    """The finished run in judge.run, or the start of the configuration (which is built if it is not in the cache)."""
    if config.judge.run is not None:
        run = RunDir(Path(config.judge.run).expanduser())
        tokenizer = load_tokenizer(str(run.checkpoint), None, config.model.trust_remote_code)
        facts: dict[str, Any] = {"run": str(run.path), "checkpoint": str(run.checkpoint)}
        return Policy(config, tokenizer, device, facts | {"checkpoint_hash": checkpoint_hash(run)})
    cache = Path(config.cache_root)
    tokenizer = config.model.tokenizer(cache)
    start = sft_start(config, config.model, tokenizer, cache, device)
    # a folder of weights is known by them; a hub id or an adapter's folder also by how it is named and loaded
    own = files_hash(Path(start)) if (Path(start) / "config.json").is_file() else config.model.identity(cache)
    facts = {
        "run": None,
        "checkpoint": str(start),
        "checkpoint_hash": key(own, config.plain["model"]["dtype"]),
    }
    return Policy(config, tokenizer, device, facts)


def prompts_to_ask(config: Config, tokenizer: Any) -> tuple[list[Asked], list[str], int]:
    """(prompts, shortest first; the same as the policy reads them; how many were too long for train.max_length)."""
    judge = config.judge
    asked = judging.asked_of(config.dataset.origin().load().train, judge.prompts, judge.seed)
    texts = {one.id: render(one.prompt, tokenizer) for one in asked}
    tokens = {one.id: len(encode_prompt(texts[one.id], tokenizer)) for one in asked}
    kept = [one for one in asked if tokens[one.id] < config.train.max_length]
    if not kept:
        raise UsageError(f"train.max_length={config.train.max_length}: leaves no prompt to ask; raise it")
    kept.sort(key=lambda one: tokens[one.id])
    return kept, [texts[one.id] for one in kept], len(asked) - len(kept)


def make(config: Config) -> JudgedDir:
    """Sample, judge and write, or finish, or find finished, the pairs of this configuration.

    Raises JudgeError where the judge cannot go on or no pair comes of it; what was asked so far is kept.
    """
    judge, device = config.judge, pick_device(config.train.device)
    torch.set_num_threads(config.train.threads or default_threads())
    judge_facts = judge.facts()
    ask = judge.open(device)
    if judge.run is not None:
        run_config(judge.run)
    policy = policy_of(config, device)
    asked, texts, too_long = prompts_to_ask(config, policy.tokenizer)
    name, identity = naming(config, policy, asked, texts, judge_facts)
    directory = JudgedDir(Path(config.output_root) / "judged" / f"{name}-{identity}")
    make_folder(directory.path)
    with locked(directory.lock):
        tidy(directory.path)
        if directory.finished:
            say(f"already judged, not repeated: {directory.path}")
            return directory
        answers, verdicts, replies = (Log(directory.path / f"{n}.jsonl") for n in ("answers", "verdicts", "replies"))
        judging.sample(answers, asked, judge, policy.answer)
        questions = judging.questions_of(asked, answers.rows, judge)
        judging.decide(verdicts, replies, questions, judge, ask)
        made_by = {"judge": judge_name(config), "checkpoint_hash": policy.facts["checkpoint_hash"]}
        rows, counts = judging.pair_rows(asked, answers, verdicts, questions, made_by)
        counts["prompt_too_long"] = too_long
        say("judged: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
        if not rows:
            why = ", ".join(f"{name} {counts[name]}" for name in judging.WHY_NONE if counts[name])
            raise JudgeError(f"no pairs came of {directory.path} ({why}); change the judge, or how it samples")
        facts = {"judge": judge_name(config), "policy": policy.facts, "identity": identity, "counts": counts}
        judging.write(directory, rows, facts | {"made_with": provenance(device), "config": config.plain})
    return directory


def judge_name(config: Config) -> str:
    """The module of a configuration's judge: rules_json, endpoint, ..."""
    return str(config.plain["judge"]["_target_"].rsplit(".", 2)[1])


def deciding(config: Config) -> dict[str, Any]:
    """The settings of a judge that can change an answer or a verdict."""
    return {name: value for name, value in config.plain["judge"].items() if name not in config.judge.free}


def naming(
    config: Config, policy: Policy, asked: Sequence[Asked], texts: Sequence[str], judge_facts: dict[str, Any]
) -> tuple[str, str]:
    """(a name for people, eight hex digits of everything that decides answers and verdicts)."""
    prompts = [(one.id, text, one.references) for one, text in zip(asked, texts, strict=True)]
    weights, precision = policy.facts["checkpoint_hash"], config.train.precision
    identity = key(VERSION, weights, precision, prompts, deciding(config), judge_facts, *other_ends(policy.tokenizer))[
        :8
    ]
    origin = type(config.dataset.origin()).__module__.rsplit(".", 1)[1]
    return f"{origin}-{judge_name(config)}", identity
