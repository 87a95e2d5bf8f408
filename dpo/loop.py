"""Optimizer steps, accumulation, checkpoints and resume; evaluation is called, not known here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dpo.accumulate import RunningMean, Step, Work
from dpo.beta import Beta
from dpo.config import Optim, Train
from dpo.data.batches import step_indices
from dpo.data.tokens import TokenPair
from dpo.finite import check_weights
from dpo.heap import keep_freed_memory
from dpo.interrupt import check
from dpo.json_files import write_json
from dpo.losses.base import Loss
from dpo.metrics import scalars
from dpo.models.adapters import restore, train_mode, trainable_state
from dpo.progress import bar, say
from dpo.records import RunDir
from dpo.reference import StoredLogps
from dpo.tracking.files import Recorder

STATE = "resume.pt"
WEIGHTS = "policy.safetensors"


@dataclass
class Trainee:
    """What a run trains and what it needs for a step: policy (as scoring module), loss, beta, data, reference.

    `rewards` is the running mean that some losses shift by; with beta's it is a run's state beside the weights.
    """

    model: Any
    scorer: nn.Module
    tokenizer: Any
    pairs: Sequence[TokenPair]
    reference: StoredLogps
    loss: Loss
    beta: Beta
    seed: int
    rewards: RunningMean = field(default_factory=RunningMean)


def total_steps(n_pairs: int, train: Train) -> int:
    """Optimizer steps of a run: whole epochs, or train.max_steps where that is given."""
    by_epochs = math.ceil(n_pairs / train.batch_size) * train.epochs
    return by_epochs if train.max_steps is None else train.max_steps


def learning_rate(step: int, steps: int, optim: Optim) -> float:
    """The rate of optimizer step `step` (1 to `steps`): linear warm-up, then constant, linear or cosine to 0."""
    warmup = round(optim.warmup_fraction * steps)
    if step <= warmup:
        return optim.lr * step / warmup
    progress = (step - 1 - warmup) / max(1, steps - warmup)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return optim.lr * factor[optim.schedule]


def train(
    trainee: Trainee, optim: Optim, settings: Train, recorder: Recorder, evaluate: Callable[[int, int], None]
) -> Work[int]:
    """Run the steps that are missing; returns their total. `evaluate(step, steps)` writes its own rows.

    Yields each optimizer batch and is sent what accumulating its gradient gave (`accumulate.drive`).

    Order within a step: train row, evaluation if due, checkpoint if due; so a checkpoint at step k has
    every row up to k behind it, and a resume drops what lies past it.
    """
    keep_freed_memory()
    steps = total_steps(len(trainee.pairs), settings)
    parameters = [p for p in trainee.model.parameters() if p.requires_grad]
    # one pass over memory in place of ten; the padded layout keeps the bits it always had
    fused = getattr(trainee.scorer, "layout", "padded") == "shared_prompt"
    decay = optim.weight_decay
    optimizer = torch.optim.AdamW(
        parameters, lr=optim.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=fused
    )
    torch.manual_seed(trainee.seed)  # what an adapter's dropout draws from
    done = load_checkpoint(recorder.run, trainee, optimizer)
    if done is None:
        recorder.run.cut(-1)
        evaluate(0, steps)
        done = 0
    train_mode(trainee.model)
    # what counts as a tie was measured at step 0, also for a run that resumes
    tie = next(row["eval/tie"] for row in recorder.run.rows(recorder.run.metrics) if row["kind"] == "eval")
    progress = bar(range(done + 1, steps + 1), "dpo", "step", initial=done, total=steps)
    for step in progress:
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, optim)
        indices = step_indices(len(trainee.pairs), settings.batch_size, step, trainee.seed)
        values = yield from optimizer_step(trainee, optimizer, parameters, indices, step, optim, settings, tie)
        seconds = time.perf_counter() - begin
        speed = {"pairs_per_second": len(indices) / seconds, "tokens_per_second": values["tokens/step"] / seconds}
        recorder.log(step, "train", values, {"step": seconds} | speed)
        line = f"loss {values['loss']:.4f}  margin {values['rewards/margins']:+.3f}"
        progress.set_postfix_str(f"{line}  accuracy {values['rewards/accuracies']:.2f}", refresh=False)
        if settings.print_every and step % settings.print_every == 0:
            say(f"step {step:>4}  {line}")
        seen = step == steps or bool(settings.eval_every and step % settings.eval_every == 0)
        kept = step < steps and bool(settings.checkpoint_every and step % settings.checkpoint_every == 0)
        if seen or kept:
            check_weights(trainee.model.named_parameters(), step)
        if seen:
            evaluate(step, steps)
            train_mode(trainee.model)
        check()
        if kept:
            save_checkpoint(recorder.run, trainee, optimizer, step)
    return steps


def optimizer_step(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    indices: list[int],
    step: int,
    optim: Optim,
    settings: Train,
    tie: float,
) -> Work[dict[str, float]]:
    """One update on the mean loss over the pairs `indices`, in micro-batches that change nothing but memory."""
    optimizer.zero_grad(set_to_none=True)
    step_now = Step(
        trainee.scorer,
        trainee.pairs,
        trainee.reference,
        trainee.loss,
        trainee.beta,
        trainee.rewards,
        indices,
        step,
        trainee.tokenizer.pad_token_id,
        settings.token_budget,
        settings.precision,
    )
    rows, beta = yield step_now
    norm = torch.nn.utils.clip_grad_norm_(parameters, optim.max_grad_norm or math.inf)
    optimizer.step()
    values = scalars(rows, beta, tie) | trainee.rewards.logged(trainee.loss.needs) | step_now.load()
    return values | {"grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]}


def save_checkpoint(run: RunDir, trainee: Trainee, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Trained weights, optimizer and random state at the end of `step`, in place of the last ones."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "beta": trainee.beta.state_dict(),
        "rewards": trainee.rewards.state_dict(),
    }
    with run.new_checkpoint() as folder:
        save_file(trainable_state(trainee.model), folder / WEIGHTS)
        with (folder / STATE).open("wb") as file:
            torch.save(state, file)
        write_json(folder / "step.json", {"step": step})


def load_checkpoint(run: RunDir, trainee: Trainee, optimizer: torch.optim.Optimizer) -> int | None:
    """Continue from the run's checkpoint and drop the rows past it; the step it was made at, or None."""
    run.recover()
    step = run.checkpoint_step
    if step is None:
        return None
    state = torch.load(run.checkpoint / STATE, map_location="cpu", weights_only=True)
    restore(trainee.model, load_file(run.checkpoint / WEIGHTS))
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    trainee.beta.load_state_dict(state["beta"])
    trainee.rewards.load_state_dict(state["rewards"])
    run.cut(step)
    return step
