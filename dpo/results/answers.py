"""What models write, side by side: answers are shown as they stand, whatever they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dpo.results.arms import Arm
from dpo.results.cells import Cell, Table
from dpo.results.frames import Run, Runs

MOST = 4
"""Policies that stand side by side."""


@dataclass
class Column:
    """One model's answers by prompt: what made it, the arms that have this very model, the runs that recorded it."""

    kind: str
    answers: Mapping[str, str]
    arms: list[str]
    runs: list[str]

    @property
    def title(self) -> str:
        """What made it, and of which arms; arms with the same answers share a column."""
        return self.kind + (f": {' = '.join(self.arms)}" if self.arms else "")


def columns(arms: list[Arm]) -> list[Column]:
    """base, SFT, and the policy of each arm's first seed; what is the same answer for answer is one column."""
    found: list[Column] = []
    recorded = [(arm, arm.runs[0], arm.runs[0].compare()) for arm in arms]
    for kind, column in KINDS.items():
        for arm, run, table in recorded:
            if not len(table) or not has(run, kind):
                continue
            answers = dict(zip(table["prompt"], table[column], strict=True))
            home = next((c for c in found if c.kind == kind and c.answers == answers), None)
            if home is None:
                home = Column(kind, answers, [], [])
                found.append(home)
            home.arms.append(arm.label)
            home.runs.append(run.id)
    for model in found:
        alone = sum(c.kind == model.kind for c in found) == 1
        if len(arms) == 1 or (alone and model.kind in ("base", "SFT")):
            model.arms = []  # one model for all needs no name
    return found


KINDS = {"base": "base", "SFT": "sft", "DPO": "dpo", "SFT then DPO": "dpo"}
"""What made a model -> the column of compare.jsonl that holds its answers."""


def has(run: Run, kind: str) -> bool:
    """Whether the run recorded a model of this kind: an SFT stage, or a policy that took steps from either start."""
    stage, trained = "sft.side" in run.flat, bool(run.last.get("step"))
    return {"base": True, "SFT": stage, "DPO": trained and not stage, "SFT then DPO": trained and stage}[kind]


def asked(prompt: str) -> str:
    """A prompt without the template that every prompt has."""
    return prompt.replace("### Instruction:\n", "").replace("\n\n### Response:\n", "").strip()


def side_by_side(runs: Runs, limit: int = 12) -> Table:
    """Greedy answers to the same unseen prompts: base, SFT, DPO, SFT then DPO; the first seed of each arm."""
    found = columns(runs.done.arms())
    starts = [c for c in found if c.kind in ("base", "SFT")]
    policies = [c for c in found if c not in starts]
    shown = starts + policies[:MOST]
    prompts = [p for p in (shown[0].answers if shown else {}) if all(p in c.answers for c in shown)][:limit]
    rows = [
        (Cell(asked(p), tuple(c.runs[0] for c in shown)), *(Cell(c.answers[p].strip(), tuple(c.runs)) for c in shown))
        for p in prompts
    ]
    notes = (
        [f"{len(policies) - MOST} more policies are not shown; dpo compare RUN shows any."] if policies[MOST:] else []
    )
    caption = "Greedy answers to prompts that are not in the training data, as recorded at the end of each run."
    return Table("answers", caption, ("prompt", *(c.title for c in shown)), tuple(rows), tuple(notes))


def samples(run: Run, limit: int = 8) -> Table:
    """Sampled answers of one run to the same prompts at its start and its end."""
    table = run.samples()
    sampled = table[table["decoding"] == "sampled"] if len(table) else table
    first, last = (sampled["step"].min(), sampled["step"].max()) if len(sampled) else (0, 0)
    of = (run.id,)
    rows = []
    if len(sampled):
        parts = [sampled[sampled["step"] == step].set_index(["prompt", "draw"])["completion"] for step in (first, last)]
        for key in list(parts[0].index)[:limit]:
            texts = [asked(key[0]), *(str(part.get(key, "")) for part in parts)]
            rows.append(tuple(Cell(text, of) for text in texts))
    return Table("samples", "Sampled answers before and after.", ("prompt", "start", f"step {last}"), tuple(rows))
