"""The reward model arm: a Bradley-Terry model on the pairs, the start and the settings of a policy's run.

Bradley and Terry 1952; as a loss for preferences over answers Christiano et al. 2017 (arXiv:1706.03741)
and Ouyang et al. 2022 (arXiv:2203.02155), equation 1: -log sigmoid(r_chosen - r_rejected).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dpo import past
from dpo import run as runner
from dpo.accumulate import Work, drive
from dpo.audit import prepare_run, write_audit
from dpo.checked import check_limits
from dpo.config import Config, identity
from dpo.data.batches import collate, micro_batches, step_indices
from dpo.data.files import read_pairs
from dpo.data.pair import Pair, check_pairs
from dpo.data.tokens import TokenPair, content_hash, tokenise
from dpo.errors import UsageError
from dpo.evaluate import agreement, calibration, length
from dpo.evaluate.evaluator import pair_names
from dpo.finite import check_values, check_weights
from dpo.gate import ROUNDING, StartError
from dpo.inputs import inputs, refuse_moving
from dpo.loop import learning_rate, total_steps
from dpo.metrics import PairRows, reward_means
from dpo.models.adapters import save, train_mode
from dpo.models.pretrained import load_tokenizer, weights_hash
from dpo.models.reward import RewardScorer, trainable, trained, untrained
from dpo.progress import bar, say
from dpo.provenance import provenance, yardstick
from dpo.records import RunDir
from dpo.start import default_threads, pick_device, sft_start
from dpo.tracking.files import NoTracker, Recorder

UNREAD = ("beta", "loss", "reference", "evaluate", "judge", "rounds")
"""Groups of the configuration that a reward model does not read."""


def run(config: Config) -> tuple[RunDir, bool]:
    """Train the reward model of this configuration, or find it finished; (its directory, whether it was finished).

    An interrupted one starts again: it has no checkpoint before its end.
    """
    plain = {name: value for name, value in config.plain.items() if name not in UNREAD}
    dataset = plain["dataset"]["_target_"].rsplit(".", 2)[1]
    name = f"{dataset}-reward-seed{config.seed}-{identity(plain)}"
    return drive(runner.attempt(config, RunDir(Path(config.output_root) / "runs" / name), execute))


def refuse_unread(overrides: Sequence[str]) -> None:
    """Raise UsageError for an override that could change nothing here."""
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0].split(".", 1)[0].split("@", 1)[0]
        if key in UNREAD:
            raise UsageError(f"{override}: a reward model reads no {key}, so it would change nothing; leave it out")


@dataclass
class Arm:
    """What a step and an evaluation need."""

    config: Config
    model: Any
    scorer: nn.Module
    pad_id: int
    recorder: Recorder

    def rows(self, pairs: Sequence[TokenPair], indices: Sequence[int], per_pair: float | None) -> PairRows:
        """Rows of pairs[i]; with `per_pair`, that times the summed loss is sent back to the weights."""
        device = next(self.model.parameters()).device
        parts = []
        for group in micro_batches(pairs, indices, self.config.train.token_budget):
            batch = collate(pairs, group, self.pad_id).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"):
                chosen_B, rejected_B = self.scorer(batch)
            loss_B = F.softplus(rejected_B - chosen_B)
            if per_pair is not None:
                (loss_B.sum() * per_pair).backward()
            names = ("loss", "chosen_reward", "rejected_reward", "chosen_tokens", "rejected_tokens")
            columns = (loss_B, chosen_B, rejected_B, *batch.length_R.chunk(2))
            values = {name: c.detach().double().cpu() for name, c in zip(names, columns, strict=True)}
            parts.append(PairRows(batch.pair_B, values))
        return PairRows.concat(parts)

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[TokenPair], step: int) -> None:
        """Pair table and evaluation row of a step; step 0 must show the loss of a head of zeros."""
        begin = time.perf_counter()
        self.model.eval()
        check_weights(self.model.named_parameters(), step)
        rows = self.rows(pairs, range(len(pairs)), None)
        check_values({"loss": float(rows.values["loss"].mean())}, step, "eval")
        names = pair_names(pairs)
        rows = replace(rows, prompts=tuple(names["prompt"]))
        columns = {name: column.numpy() for name, column in rows.values.items()}
        self.recorder.run.write_pairs(step, names | columns)
        values = describe(rows, self.config.train.precision)
        if step == 0 and not abs(values["loss"] - math.log(2)) < 1e-5:
            raise StartError(f"an untrained head scores 0, a loss of {math.log(2):.6g}, but shows {values['loss']:.6g}")
        self.recorder.log(step, "eval", values, {"evaluation": time.perf_counter() - begin})

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], pairs: Sequence[TokenPair], step: int
    ) -> None:
        """One update on the mean loss of the step's pairs, the same ones as a policy's run with this seed meets."""
        begin = time.perf_counter()
        indices = step_indices(len(pairs), self.config.train.batch_size, step, self.config.seed)
        train_mode(self.model)
        optimizer.zero_grad(set_to_none=True)
        rows = self.rows(pairs, indices, 1 / len(indices))
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.max_grad_norm or math.inf)
        optimizer.step()
        values = reward_means(rows, ROUNDING[self.config.train.precision])
        values |= {"grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]}
        seconds = time.perf_counter() - begin
        self.recorder.log(step, "train", values, {"step": seconds, "pairs_per_second": len(indices) / seconds})
        if self.config.train.print_every and step % self.config.train.print_every == 0:
            say(f"step {step:>4}  loss {values['loss']:.4f}  margin {values['rewards/margins']:+.3f}")


def describe(rows: PairRows, precision: str) -> dict[str, float]:
    """Everything that evaluation pairs tell of a reward model, without the eval/ prefix."""
    tie = ROUNDING[precision]
    return reward_means(rows, tie) | length.scalars(rows, tie) | calibration.scalars(rows, None, tie)


def execute(config: Config, directory: RunDir) -> Work[None]:
    """The recipe: data, tokens, start, head, steps, and what came of them."""
    yield from ()  # no policy's batch to hand out
    cache, device = Path(config.cache_root), pick_device(config.train.device)
    torch.set_num_threads(config.train.threads or default_threads())
    read = inputs(config.plain)
    made = prepare_run(config, runner.load_data(config))
    tokenizer = config.model.tokenizer(cache)
    train_pairs, eval_pairs = made.train, made.evaluation
    write_audit(directory, made)

    start = sft_start(config, config.model, tokenizer, cache, device)
    pad_id = tokenizer.pad_token_id
    model = untrained(start, config.model, pad_id).to(device)
    check_limits(model, tokenizer, [*train_pairs, *eval_pairs], f"model.path={start}")
    start_hash = weights_hash(model)
    model = trainable(model, config.adapter, config.seed)
    steps = total_steps(len(train_pairs), config.train)
    facts = {
        "kind": "reward",
        "start": str(start),
        "start_hash": start_hash,
        "train_data_hash": content_hash(train_pairs),
        "eval_data_hash": content_hash(eval_pairs),
        **yardstick(made.split.evaluation, tokenizer),
        "global_batch": config.train.batch_size,
        "steps": steps,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    refuse_moving(read, config.plain)
    directory.write("provenance", provenance(device) | facts | {"files": read})
    directory.cut(-1)
    with runner.recorded(config, directory) as recorder:
        train(Arm(config, model, RewardScorer(model), pad_id, recorder), train_pairs, eval_pairs)
        finish(directory, model, tokenizer, config, start)


def train(arm: Arm, train_pairs: Sequence[TokenPair], eval_pairs: Sequence[TokenPair]) -> None:
    """All optimizer steps, with the policy's optimizer, schedule, batches and evaluations."""
    config, steps = arm.config, total_steps(len(train_pairs), arm.config.train)
    parameters = [p for p in arm.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.optim.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.optim.weight_decay
    )
    torch.manual_seed(config.seed)  # what an adapter's dropout draws from
    arm.evaluate(eval_pairs, 0)
    for step in bar(range(1, steps + 1), "reward model", "step"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config.optim)
        arm.step(optimizer, parameters, train_pairs, step)
        every = config.train.eval_every
        if step == steps or (every and step % every == 0):
            arm.evaluate(eval_pairs, step)


def finish(directory: RunDir, model: Any, tokenizer: Any, config: Config, start: str) -> None:
    """The checkpoint, and the summary with its reliability table."""
    with directory.new_checkpoint() as folder:
        save(model, folder, start, config.model.revision)
        tokenizer.save_pretrained(folder)
    evaluations = [row for row in directory.rows(directory.metrics) if row["kind"] == "eval"]
    first, last = evaluations[0], evaluations[-1]
    rows = PairRows.read(directory.read_pairs(last["step"]))
    reliability = calibration.table(rows, ROUNDING[config.train.precision])
    result = {"kind": "reward", "steps": last["step"], "flags": {}, "reliability": reliability}
    directory.write("summary", result | {"first": first, "last": last})


def score_pairs(run: RunDir, pairs_file: Path) -> tuple[list[str], PairRows, dict[str, Any]]:
    """(pair ids, rows, metrics) of a pairs file under a finished reward model, put together again."""
    arm, tokenizer = finished_arm(run, None)
    pairs = read_pairs(pairs_file)
    check_pairs(pairs, str(pairs_file))
    rows, ids, counts = score_texts(arm, pairs, tokenizer)
    precision = arm.config.train.precision
    return ids, rows, counts | describe(rows, precision) | {"tie": ROUNDING[precision]}


def finished_arm(run: RunDir, device: torch.device | None) -> tuple[Arm, Any]:
    """A finished reward model put together again, and its tokenizer; on the run's own kind of device for None."""
    if run.status()["state"] != "done":
        raise UsageError(f"{run.path}: state is {run.status()['state']}; only a finished run can be scored")
    run.check_checkpoint()
    config = past.settings(run)
    device = device or pick_device(config.train.device)
    tokenizer = load_tokenizer(str(run.checkpoint), None, config.model.trust_remote_code)
    start = past.start_of(run) if config.adapter.shares_start else ""
    model = trained(run.checkpoint, start, config.model, config.adapter, tokenizer.pad_token_id).to(device)
    return Arm(config, model, RewardScorer(model), tokenizer.pad_token_id, Recorder(run, NoTracker())), tokenizer


def score_texts(arm: Arm, pairs: Sequence[Pair], tokenizer: Any) -> tuple[PairRows, list[str], dict[str, int]]:
    """(rows, pair ids, token counts) of any pairs."""
    token_pairs, counts = tokenise(pairs, tokenizer, arm.config.train.max_length)
    check_limits(arm.model, tokenizer, token_pairs, str(arm.recorder.run.path))
    with torch.no_grad():
        return arm.rows(token_pairs, range(len(token_pairs)), None), [pair.id for pair in token_pairs], counts


def rewards(run: RunDir, device: torch.device) -> Callable[[Sequence[Pair]], list[tuple[float, float]]]:
    """A function from pairs to the rewards of their two sides, in order."""
    arm, tokenizer = finished_arm(run, device)

    def score(pairs: Sequence[Pair]) -> list[tuple[float, float]]:
        rows, _, _ = score_texts(arm, pairs, tokenizer)
        columns = (rows.values[name].tolist() for name in ("chosen_reward", "rejected_reward"))
        return list(zip(*columns, strict=True))

    return score


def against(reward: RunDir, policy: RunDir, precision: str) -> dict[str, float]:
    """`agreement.compare` of two finished runs' last evaluations, written to the reward run's directory.

    Raises UsageError unless both were evaluated on the same tokens.
    """
    if policy.status()["state"] != "done" or policy.kind != "policy":
        raise UsageError(f"--against {policy.path}: must be the directory of a finished policy run")
    hashes = [run.read("provenance")["eval_data_hash"] for run in (reward, policy)]
    if hashes[0] != hashes[1]:
        raise UsageError(
            f"--against {policy.path}: its evaluation pairs are not those of {reward.path.name}; "
            "give the same dataset, model and train.max_length"
        )
    last = policy.read("summary")["last"]
    explicit, implicit = (PairRows.read(run.read_pairs(run.saved_steps()[-1])) for run in (reward, policy))
    values = agreement.compare(implicit, explicit, (last["eval/tie"], ROUNDING[precision]))
    reward.write(f"against-{policy.path.name}", values)
    return values
