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
    """One model's answers by prompt, and the runs that recorded these very answers."""

    title: str
    answers: Mapping[str, str]
    runs: list[str]


def columns(arms: list[Arm]) -> list[Column]:
    """base, SFT, and the policy of each arm's first seed; what is the same answer for answer is one column."""
    found: list[Column] = []

    def add(title: str, run: Run, answers: Mapping[str, str]) -> None:
        same = next((c for c in found if c.answers == answers and c.title.split(",")[0] == title.split(",")[0]), None)
        if same:
            same.runs.append(run.id)
        else:
            found.append(Column(title, answers, [run.id]))

    several = len(arms) > 1
    runs = [(arm, arm.runs[0], arm.runs[0].compare()) for arm in arms]
    runs = [(arm, run, table) for arm, run, table in runs if len(table)]
    for arm, run, table in runs:
        add(f"base, {arm.label}" if several and differs(runs, "base") else "base", run, by_prompt(table, "base"))
    for arm, run, table in runs:
        if stage(run):
            add(f"SFT, {arm.label}" if several and differs(runs, "sft") else "SFT", run, by_prompt(table, "sft"))
    for arm, run, table in runs:
        if run.last.get("step"):
            name = "SFT then DPO" if stage(run) else "DPO"
            add(f"{name}, {arm.label}" if several else name, run, by_prompt(table, "dpo"))
    return found


def by_prompt(table: object, column: str) -> dict[str, str]:
    """Answers of one column of compare.jsonl."""
    return dict(zip(table["prompt"], table[column], strict=True))  # type: ignore[index]


def differs(runs: list[tuple[Arm, Run, object]], column: str) -> bool:
    """Whether the arms have different models in this column."""
    kept = [by_prompt(table, column) for _, run, table in runs if column == "base" or stage(run)]
    return any(answers != kept[0] for answers in kept)


def stage(run: Run) -> bool:
    """Whether the policy's start was fine-tuned before."""
    return "sft.side" in run.flat


def asked(prompt: str) -> str:
    """A prompt without the template that every prompt has."""
    return prompt.replace("### Instruction:\n", "").replace("\n\n### Response:\n", "").strip()


def side_by_side(runs: Runs, limit: int = 12) -> Table:
    """Greedy answers to the same unseen prompts: base, SFT, DPO, SFT then DPO; the first seed of each arm."""
    found = columns(runs.done.arms())
    starts = [c for c in found if not c.title.startswith(("DPO", "SFT then DPO"))]
    policies = [c for c in found if c not in starts]
    shown = starts + policies[:MOST]
    prompts = [p for p in (shown[0].answers if shown else {}) if all(p in c.answers for c in shown)][:limit]
    rows = [
        (Cell(asked(p), tuple(c.runs[0] for c in shown)), *(Cell(c.answers[p].strip(), tuple(c.runs)) for c in shown))
        for p in prompts
    ]
    notes = [f"{len(policies) - MOST} more policies are not shown; dpo compare RUN shows any."] if policies[MOST:] else []
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
