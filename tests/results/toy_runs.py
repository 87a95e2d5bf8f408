"""Run directories of made-up numbers: pairs drawn from a seed, and rows that the trainer's own code logs for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpo.config import dump, identity
from dpo.evaluate.evaluator import describe_pairs
from dpo.metrics import PairRows, flags
from dpo.records import RunDir

SUM = {"name": "Sigmoid", "reduction": "sum", "own_score": False, "uses_beta": True}
MEAN = {"name": "Ipo", "reduction": "mean", "own_score": False, "uses_beta": True}
OWN = {"name": "Simpo", "reduction": "mean", "own_score": True, "uses_beta": True}


def settings(seed: int, beta: float, **changes: Any) -> dict[str, Any]:
    """A configuration with the keys that results read; `changes` by dotted key, dots as __."""
    plain: dict[str, Any] = {
        "seed": seed,
        "output_root": "out",
        "cache_root": "cache",
        "model": {"_target_": "dpo.models.tiny.Tiny", "width": 32},
        "dataset": {"_target_": "dpo.data.twelve.Twelve"},
        "perturb": {"_target_": "dpo.data.perturb.NoPerturbation"},
        "beta": {"_target_": "dpo.beta.Fixed", "value": beta},
        "loss": {"_target_": "dpo.losses.sigmoid.Sigmoid", "label_smoothing": 0.0, "usual_beta": 0.1},
        "optim": {"lr": 1e-4},
        "train": {"max_length": 64, "print_every": 0},
        "tracker": {"mode": "disabled"},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = plain
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return plain


def pair_columns(
    seed: int, beta: float, gain: float, slope: float, n: int, prompts: int, own_score: bool, data: int = 7
) -> dict[str, Any]:
    """Columns of a per-pair table: d is `gain` + `slope` x length difference + noise; the same pairs for every seed."""
    pairs = np.random.default_rng(data)
    tokens = pairs.integers(5, 30, (2, n)).astype(float)
    reference = -2.0 * tokens + pairs.normal(0, 0.5, (2, n))
    own = np.random.default_rng([data, seed, round(1000 * gain), round(1000 * beta)])
    noise = own.normal(0, 1, (2, n)) if gain or slope else np.zeros((2, n))
    shift = gain / 2 + slope * (tokens[0] - tokens[1]) / 2
    policy = reference + noise + np.stack([shift, -shift])
    rewards = beta * (policy / tokens if own_score else policy - reference)
    values = {
        "loss": np.logaddexp(0, rewards[1] - rewards[0]),
        "chosen_reward": rewards[0],
        "rejected_reward": rewards[1],
        "chosen_logp": policy[0],
        "rejected_logp": policy[1],
        "chosen_ref_logp": reference[0],
        "rejected_ref_logp": reference[1],
        "chosen_tokens": tokens[0],
        "rejected_tokens": tokens[1],
        "chosen_entropy": tokens[0] * 0.5,
        "rejected_entropy": tokens[1] * 0.5,
        "chosen_top": np.floor(tokens[0] * 0.7),
        "rejected_top": np.floor(tokens[1] * 0.4),
    }
    names = {"id": [f"pair-{i}" for i in range(n)], "prompt": [f"prompt-{i % prompts}" for i in range(n)]}
    return names | {name: column.tolist() for name, column in values.items()}


def answers(step: int, seed: int, length: float) -> list[dict[str, Any]]:
    """Twenty sampled answers to four prompts, and a greedy one."""
    g = np.random.default_rng([seed, step, round(length)])
    rows = []
    for i in range(20):
        tokens = max(1, int(g.normal(length, 2)))
        text = '{"a": 1}' if g.random() < (0.9 if step else 0.3) else "prose"
        row = {"step": step, "decoding": "sampled", "prompt": f"p{i % 4}", "completion": text, "tokens": tokens}
        rows.append(row | {"ended": True, "repetition": 0.0})
    greedy = {"decoding": "greedy", "prompt": "p0", "completion": "<script>alert(1)</script>", "tokens": 3}
    return [*rows, {"step": step, **greedy, "ended": True, "repetition": 0.0}]


def logged_samples(made: list[dict[str, Any]]) -> dict[str, float]:
    """What an evaluation logs of its answers."""
    sampled = [row for row in made if row["decoding"] == "sampled"]
    return {
        "samples/length": float(np.mean([row["tokens"] for row in sampled])),
        "samples/repetition": 0.0,
        "samples/eos_rate": 1.0,
        "json_rate": float(np.mean([row["completion"] != "prose" for row in sampled])),
    }


def origin(data: int) -> dict[str, Any]:
    """The provenance of a run on the pairs of this number."""
    pairs = {"eval_pairs_hash": f"pairs-of-{data:09}", "eval_data_hash": f"tokens-of-{data:09}"}
    more = {"global_batch": 4, "steps": 4, "trainable_parameters": 100, "commit": "c" * 40, "versions": {"torch": "2"}}
    return pairs | {"tokenizer_hash": "t" * 64} | more


def write_run(
    root: Path,
    seed: int = 0,
    beta: float = 0.1,
    *,
    gain: float = 2.0,
    slope: float = 0.0,
    n: int = 40,
    prompts: int = 40,
    data: int = 7,
    state: str = "done",
    facts: dict[str, Any] | None = None,
    lengths: tuple[float, float] = (12.0, 12.0),
    longer_wins: float = 0.5,
    name: str | None = None,
    provenance: dict[str, Any] | None = None,
    **changes: Any,
) -> RunDir:
    """A run directory below `root`, of evaluations at steps 0 and 4 and four training rows between them."""
    plain = settings(seed, beta, **changes)
    own = bool(facts and facts["own_score"])
    directory = RunDir(root / (name or f"beta{beta:g}-seed{seed}-{identity(plain)}"))
    directory.create()
    directory.config.write_text(dump(plain))
    error = {"error": "FloatingPointError: the loss is nan", "traceback": "..."} if state == "failed" else {}
    directory.set_status(state, **error)
    rows = []
    for step, (moved, length) in {0: (0, lengths[0]), 4: (1, lengths[1])}.items():
        columns = pair_columns(seed, beta, moved * gain, moved * slope, n, prompts, own, data)
        directory.write_pairs(step, columns)
        table = PairRows(PairRows.read(columns).pair_B, PairRows.read(columns).values, own)
        start = PairRows.read(directory.read_pairs(0))
        logged = describe_pairs(table, beta, 1e-6, start)
        made = answers(step, seed, length)
        directory.append(directory.samples, made)
        logged |= logged_samples(made) | {"kl": moved * (0.5 + 0.02 * ((7 * seed + round(30 * beta)) % 5)), "kl_n": 8.0}
        about = {"step": step, "kind": "eval", "train/global_step": step, "time/evaluation": 1.0}
        rows.append(about | {f"eval/{name}": value for name, value in logged.items()})
    steps = [
        {"step": k, "kind": "train", "train/global_step": k, "train/loss": 0.7 - 0.1 * k, "time/step": 0.1}
        for k in range(1, 5)
    ]
    directory.append(directory.metrics, [rows[0], *steps, rows[1]])
    directory.write("provenance", origin(data) | {"loss": facts or SUM} | (provenance or {}))
    cut = {"truncated_chosen": 0, "truncated_rejected": 1}
    part = {"pairs": n, "longer_wins": longer_wins, **cut}
    directory.write("audit", {"train": part, "evaluation": part})
    if state == "done":
        directory.write("summary", {"flags": flags(rows[0], rows[1]), "first": rows[0], "last": rows[1]})
    return directory


def sweep_file(folder: Path, jobs: list[tuple[str, str]]) -> None:
    """A sweep.json that lists jobs as (id, name)."""
    listed = [{"id": run_id, "name": name, "settings": {}} for run_id, name in jobs]
    (folder / "sweep.json").write_text(json.dumps({"sweep": folder.name, "question": "?", "jobs": listed}))
