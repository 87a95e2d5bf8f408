"""One case of the comparison: the same random models and pairs through TRL's trainer and through ours."""

from __future__ import annotations

import logging
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpo.accumulate import drive
from dpo.config import load
from dpo.data.pair import Pair
from dpo.data.tokens import tokenise
from dpo.evaluate.held_out import evaluate_pairs
from dpo.logps import Scorer
from dpo.loop import Trainee, optimizer_step
from dpo.metrics import FP32_TIE, scalars
from dpo.models.adapters import Full
from dpo.reference import Reference
from tests import toys
from tests.parity.cases import Case

PAIRS, STEPS, LR = 8, 20, 5e-4
REWARDS = tuple(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies"))


def texts(one_token_prompts: bool) -> list[Pair]:
    """Random pairs of printable characters, answers of different lengths."""
    draw = random.Random(0)

    def word(low: int, high: int) -> str:
        return "".join(draw.choice("abcdefghij KLMNOP") for _ in range(draw.randint(low, high))) + "."

    def prompt() -> str:
        return draw.choice("QRSTUV") if one_token_prompts else word(3, 9) + "\n"

    return [Pair(f"pair-{i}", prompt(), word(4, 20), word(2, 24), "parity") for i in range(PAIRS)]


def models() -> tuple[Any, Any, Any]:
    """(tokenizer, policy, reference): random, and different from each other."""
    tokenizer = toys.tokenizer("byte")
    return tokenizer, toys.model("llama", len(tokenizer), 0), toys.model("llama", len(tokenizer), 1)


def their_trainer(case: Case, folder: str, **settings: Any) -> Any:
    """TRL's trainer on the case's pairs, all of them one batch, in fp32 on the CPU."""
    from datasets import Dataset

    tokenizer, policy, reference = models()
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in texts(case.one_token_prompts)]
    common = {
        "output_dir": folder,
        "per_device_train_batch_size": PAIRS,
        "max_length": 256,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    arguments = common | case.theirs | settings
    logging.disable(logging.WARNING)
    if case.trainer == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            model=policy,
            ref_model=reference,
            args=DPOConfig(**arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    if case.trainer == "cpo":
        from trl.experimental.cpo import CPOConfig as Settings
        from trl.experimental.cpo import CPOTrainer as Trainer
    else:
        from trl.experimental.orpo import ORPOConfig as Settings
        from trl.experimental.orpo import ORPOTrainer as Trainer
    return Trainer(
        model=policy, args=Settings(**arguments), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def theirs(case: Case) -> dict[str, float]:
    """Loss and metrics of the batch as TRL's own trainer computes and logs them."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = their_trainer(case, folder)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()  # these models have no dropout; the mode only says where metrics are kept
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, batch)
        logged = trainer._metrics["train"] if case.trainer == "dpo" else trainer._stored_metrics["train"]
    return {"loss": float(loss)} | {
        name: float(logged[name][-1]) for name in (*REWARDS, "logps/chosen", "logps/rejected")
    }


def our_parts(case: Case, cache: Path) -> tuple[Any, Any, Any, Any]:
    """(config, token pairs, policy, what the reference says) of a case."""
    tokenizer, policy, reference = models()
    config = load([*case.ours, "train.precision=fp32", "train.device=cpu"])
    pairs, _ = tokenise(texts(case.one_token_prompts), tokenizer, 256)
    known, _ = Reference(reference).known(
        pairs, config.loss.needs | {"reference"}, 256, tokenizer.pad_token_id, 10**6, cache
    )
    return config, pairs, policy, known


def ours(case: Case) -> dict[str, float]:
    """The same from this project's evaluation, in micro-batches of at most 150 tokens."""
    with tempfile.TemporaryDirectory() as folder:
        config, pairs, policy, known = our_parts(case, Path(folder))
        beta = config.beta.value(0)
        pad = toys.tokenizer("byte").pad_token_id
        rows = evaluate_pairs(Scorer(policy), pairs, known, config.loss, beta, pad, 150, "fp32")
    return scalars(rows, beta)


def their_curve(case: Case) -> list[float]:
    """The loss before each of 20 full-batch AdamW steps of TRL's trainer."""
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = their_trainer(
            case, folder, max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0
        )
        inner = trainer.compute_loss

        def recorded(*arguments: Any, **named: Any) -> Any:
            loss = inner(*arguments, **named)
            losses.append(float(loss))
            return loss

        trainer.compute_loss = recorded
        trainer.train()
    return losses


def our_curve(case: Case) -> list[float]:
    """The same from this project's training step, in micro-batches of at most 150 tokens."""
    with tempfile.TemporaryDirectory() as folder:
        config, pairs, policy, known = our_parts(case, Path(folder))
        model = Full().attach(policy, 0)
        trainee = Trainee(model, Scorer(model), toys.tokenizer("byte"), pairs, known, config.loss, config.beta, 0)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        optim, settings = replace(config.optim, max_grad_norm=1.0), replace(config.train, token_budget=150)
        steps = range(1, STEPS + 1)
        everything = list(range(len(pairs)))
        return [
            drive(optimizer_step(trainee, optimizer, parameters, everything, k, optim, settings, FP32_TIE))["loss"]
            for k in steps
        ]


def relative(a: float, b: float) -> float:
    """|a - b| / max(|a|, |b|), 0 where both are 0."""
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def differences(case: Case) -> dict[str, tuple[float, float, float]]:
    """metric -> (TRL, ours, relative difference), for the metrics that mean the same on both sides."""
    their, our = theirs(case), ours(case)
    names = ["loss"] if case.loss_only else ["loss", *REWARDS]
    return {name: (their[name], our[name], relative(their[name], our[name])) for name in names}


def curve_difference(case: Case) -> tuple[list[float], list[float], float]:
    """(TRL's losses, ours, the largest relative difference)."""
    their, our = their_curve(case), our_curve(case)
    return their, our, max(relative(a, b) for a, b in zip(their, our, strict=True))
