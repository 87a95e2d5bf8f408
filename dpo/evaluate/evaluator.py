"""One evaluation of a run: pair rows at every call, answers and the KL estimate at the start and the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dpo import gate
from dpo.config import Evaluate, Train
from dpo.data.batches import PairBatch
from dpo.data.pair import Source, Split, Text
from dpo.data.tokens import TokenPair
from dpo.errors import UsageError
from dpo.evaluate import calibration, length
from dpo.evaluate.drift import kl
from dpo.evaluate.held_out import evaluate_pairs, noise_floor
from dpo.evaluate.samples import Answer, answer, describe, repetition
from dpo.finite import check_values
from dpo.loop import Trainee
from dpo.metrics import PairRows, scalars, token_means
from dpo.pair_tables import other_pair
from dpo.progress import say
from dpo.reference import Reference, StoredLogps
from dpo.tracking.files import Recorder


@dataclass
class Evaluator:
    """Called by the loop as evaluator(step, steps); writes the evaluation row, pair table and samples of the step."""

    trainee: Trainee
    pairs: Sequence[TokenPair]
    stored: StoredLogps
    reference: Reference
    source: Source
    split: Split
    settings: Evaluate
    train: Train
    recorder: Recorder
    is_start: bool
    """Whether the reference is the policy's start, so that step 0 compares a model with itself."""

    def __call__(self, step: int, steps: int) -> None:
        begin = time.perf_counter()
        self.trainee.model.eval()
        budget, precision = self.train.token_budget, self.train.precision
        pad_id = self.trainee.tokenizer.pad_token_id
        beta = self.trainee.beta.value(step)
        scorer = self.trainee.scorer
        shift = self.trainee.rewards
        rows = evaluate_pairs(
            scorer, self.pairs, self.stored, self.trainee.loss, beta, pad_id, budget, precision, shift.mean
        )
        check_values({"loss": float(rows.values["loss"].mean())}, step, "eval")
        names = pair_names(self.pairs)
        rows = replace(rows, prompts=tuple(names["prompt"]))
        columns: dict[str, Any] = names | {name: column.numpy() for name, column in rows.values.items()}
        first = columns if step == 0 else self.recorder.run.read_pairs(0)
        if pair := other_pair(first, columns):
            raise UsageError(
                f"{self.recorder.run.pairs(0)}: pair {pair} is not what it was when this run began, so its evaluations "
                "cannot be compared; give dataset the data of then, or train anew under another output_root"
            )
        self.recorder.run.write_pairs(step, columns)
        if step == 0:
            say(gate.check(rows, self.trainee.loss, beta, precision, self.is_start))
        start = rows if step == 0 else PairRows.read(first)
        tie = noise_floor(scorer, self.pairs, pad_id, budget, precision, start if self.is_start else None)
        values = describe_pairs(rows, beta, tie, start) | shift.logged(self.trainee.loss.needs)
        check_values(values, step, "eval")  # before answers are drawn from such numbers
        if step in (0, steps):
            values |= self._answers(step)
        self.recorder.log(step, "eval", values, {"evaluation": time.perf_counter() - begin})

    def _answers(self, step: int) -> dict[str, float]:
        """Greedy and sampled answers to the source's prompts, their checks, and the KL on evaluation prompts."""
        s = self.settings
        greedy = self._answer(self.split.prompts[: s.greedy], None)
        sampled = self._answer(cycle(self.split.prompts, s.samples), s.temperature)
        rows = [self._row(step, "greedy", a) for a in greedy] + [self._row(step, "sampled", a) for a in sampled]
        self.recorder.samples(step, rows)
        values: dict[str, float] = {}
        if sampled:
            values |= describe(sampled) | self.source.check([a.text for a in sampled], self.split.train)
        if s.kl_samples:
            own = self._answer(cycle([pair.prompt for pair in self.split.evaluation], s.kl_samples), 1.0)
            pad_id = self.trainee.tokenizer.pad_token_id
            values |= kl(self._policy, self.reference.score, own, pad_id, self.train.token_budget)
        return values

    def _answer(self, prompts: Sequence[Text], temperature: float | None) -> list[Answer]:
        return answer(
            self.trainee.model,
            self.trainee.tokenizer,
            prompts,
            self.settings.max_new_tokens,
            temperature,
            self.trainee.seed,
            self.train.precision,
        )

    def _policy(self, batch: PairBatch) -> Tensor:
        device = next(self.trainee.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.train.precision == "bf16"):
            return self.trainee.scorer(batch.to(device))

    @staticmethod
    def _row(step: int, decoding: str, a: Answer) -> dict[str, Any]:
        return {
            "step": step,
            "decoding": decoding,
            "prompt": a.prompt,
            "completion": a.text,
            "tokens": len(a.ids),
            "ended": a.ended,
            "repetition": repetition(a.ids),
        }


def describe_pairs(rows: PairRows, beta: float, tie: float, start: PairRows | None = None) -> dict[str, float]:
    """Everything that evaluation pairs tell, without the eval/ prefix; `tie` as in `metrics.wins`."""
    values = scalars(rows, beta, tie, start) | token_means(rows) | {"tie": tie}
    return values | length.scalars(rows, tie) | calibration.scalars(rows, beta, tie)


def pair_names(pairs: Sequence[TokenPair]) -> dict[str, list[str]]:
    """The columns that say which pair a row is: its id, a hash of its prompt, the same where pairs share one, and a
    hash of prompt and answers."""
    whole = [hash_of([list(ids) for ids in (p.prompt_ids, p.chosen_ids, p.rejected_ids)]) for p in pairs]
    return {"id": [p.id for p in pairs], "prompt": [hash_of(p.prompt_ids) for p in pairs], "text": whole}


def hash_of(ids: object) -> str:
    """Twelve hex digits of the SHA-256 of token ids."""
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:12]


def cycle(prompts: Sequence[Text], count: int) -> list[Text]:
    """`count` prompts, starting over where there are fewer."""
    return [prompts[i % len(prompts)] for i in range(count)]
