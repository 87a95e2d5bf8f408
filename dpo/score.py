"""A finished run in a fresh process: its policy put together again, any pairs scored, any prompt answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpo import past
from dpo.checked import checked
from dpo.config import Config
from dpo.data.files import read_pairs
from dpo.data.pair import check_pairs
from dpo.data.tokens import tokenise
from dpo.disk import write_atomically
from dpo.errors import UsageError
from dpo.evaluate.evaluator import describe_pairs, pair_names
from dpo.evaluate.held_out import evaluate_pairs
from dpo.evaluate.samples import answer
from dpo.json_files import to_json
from dpo.logps import Scorer
from dpo.metrics import PairRows, log_ratios, wins
from dpo.models.pretrained import check_same, load_tokenizer, weights_hash
from dpo.models.weights import adapted
from dpo.posthoc import choose, score_rows
from dpo.records import RunDir
from dpo.reference import Reference
from dpo.run_folders import state
from dpo.terminal import as_json


def finished(run: RunDir) -> Config:
    """The configuration of a finished run; raises UsageError for any other directory."""
    if state(run) != "done":
        raise UsageError(f"{run.path}: state is {state(run)}; only a finished run can be scored or compared")
    if run.kind != "policy":
        raise UsageError(f"{run.path}: holds a {run.kind} model, which has no policy, loss or answers")
    run.check_checkpoint()
    return past.settings(run)


def load_policy(run: RunDir, config: Config, device: torch.device) -> Any:
    """The trained policy: the adapter attached to its start again, or the full weights."""
    from dpo.start import load

    if not config.adapter.shares_start:
        return load(str(run.checkpoint), config).to(device)
    place = past.start_of(run)
    start = load(place, config)
    check_same("start", weights_hash(start), place, run.read("provenance"), str(run.path))
    return adapted(start, str(run.checkpoint)).to(device)


def score_pairs(
    path: Path, pairs_file: Path, loss: str | None, beta: float | None, settings: list[str]
) -> tuple[list[str], PairRows, dict[str, Any]]:
    """(pair ids, rows, metrics) of a pairs file under a finished run; by default with the run's loss and last beta."""
    run, pairs_file = RunDir(path.absolute()), pairs_file.absolute()
    found = finished(run)
    with past.at_home(run):
        return score_under(run, found, pairs_file, loss, beta, settings)


def score_under(
    run: RunDir, found: Config, pairs_file: Path, loss: str | None, beta: float | None, settings: list[str]
) -> tuple[list[str], PairRows, dict[str, Any]]:
    """The same for a run whose own configuration is `found`."""
    from dpo.start import make_reference, pick_device

    config = replace(choose(run, loss, beta, settings), model=found.model, reference=found.reference)
    device, cache = pick_device(config.train.device), Path(found.cache_root)
    pairs = read_pairs(pairs_file)
    check_pairs(pairs, str(pairs_file))
    tokenizer = load_tokenizer(str(run.checkpoint), None, config.model.trust_remote_code)
    token_pairs, counts = tokenise(pairs, tokenizer, config.train.max_length)
    model = load_policy(run, config, device)
    start = past.start_of(run) if config.reference_is_start else ""
    looked = checked(config, model, str(run.path), tokenizer, token_pairs, str(run.path))
    reference: Reference = make_reference(config, model, start, tokenizer, cache, device, looked.layout, token_pairs)
    place = start or str(config.reference.path or config.reference.embedded)
    check_same("reference", reference.hash, place, run.read("provenance"), str(run.path))
    budget, precision, pad_id = config.train.token_budget, config.train.precision, tokenizer.pad_token_id
    needs = config.loss.needs | {"reference"}
    stored, _ = reference.known(token_pairs, needs, config.train.max_length, pad_id, budget, cache)
    last = run.read("summary")["last"]
    own = loss is None and beta is None
    strength = last["eval/beta"] if own else config.beta.over(last["step"]).value(last["step"])
    shift = last.get("eval/rewards/running_mean", 0.0)
    scorer = Scorer(model, looked.layout)
    rows = evaluate_pairs(scorer, token_pairs, stored, config.loss, strength, pad_id, budget, precision, shift)
    rows = replace(rows, prompts=tuple(pair_names(token_pairs)["prompt"]))
    metrics = {"loss_name": type(config.loss).__name__, **counts, **describe_pairs(rows, strength, last["eval/tie"])}
    return [pair.id for pair in token_pairs], rows, metrics


def score(
    path: Path,
    pairs_file: Path | None,
    out: Path | None,
    loss: str | None,
    beta: float | None,
    settings: list[str],
    step: int | None,
) -> None:
    """Print the metrics of a pairs file, or of a run's own evaluation pairs at `step`; optionally a row per pair."""
    run = RunDir(path)
    if run.kind == "reward" and pairs_file is not None and not settings and (loss, beta, step) == (None, None, None):
        from dpo import reward

        ids, rows, metrics = reward.score_pairs(run, pairs_file)
    elif run.kind == "reward":
        raise UsageError(f"{path}: holds a reward model; it scores a pairs file, without --loss, --beta or --step")
    elif pairs_file is None:
        ids, rows, metrics = score_rows(path, loss, beta, settings, step)
    elif step is not None:
        raise UsageError(f"--step {step}: chooses among a run's own evaluations; a pairs file is scored under its end")
    else:
        ids, rows, metrics = score_pairs(path, pairs_file, loss, beta, settings)
    if out is not None:
        columns = dict(rows.values)
        if rows.has_reference:
            c_B, r_B = log_ratios(rows)
            columns["logratio_margin"] = c_B - r_B
        columns["win"] = wins(rows, float(metrics["tie"]))
        lines = (
            to_json({"id": name} | {column: float(values[i]) for column, values in columns.items()})
            for i, name in enumerate(ids)
        )
        write_atomically(out, "".join(f"{line}\n" for line in lines))
    as_json({"pairs": len(ids), **metrics})


def answer_prompt(run: RunDir, prompt: str) -> dict[str, str]:
    """Greedy answers of base, start and policy to one prompt, under the keys of compare.jsonl."""
    from dpo.start import load, pick_device

    run = RunDir(run.path.absolute())
    config = finished(run)
    device, cache = pick_device(config.train.device), Path(config.cache_root)
    tokenizer = load_tokenizer(str(run.checkpoint), None, config.model.trust_remote_code)
    models = {
        "base": lambda: load(config.model.folder(cache), config).to(device),
        "sft": lambda: load(past.start_of(run), config).to(device),
        "dpo": lambda: load_policy(run, config, device),
    }
    limit, precision = config.evaluate.max_new_tokens, config.train.precision
    with past.at_home(run):
        given = {
            name: answer(make(), tokenizer, [prompt], limit, None, 0, precision)[0] for name, make in models.items()
        }
    return {"prompt": given["dpo"].prompt} | {name: a.text for name, a in given.items()}
