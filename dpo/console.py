"""What verbs show of runs: summaries, tables, coloured tokens; on stdout, or as JSON for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo import terminal
from dpo.errors import UsageError
from dpo.evaluate.change import sentence
from dpo.json_files import Damaged
from dpo.records import RunDir
from dpo.results.reading import is_comparison
from dpo.terminal import Sheet

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")

SIDES = {"base": "base", "sft": "sft (start)", "dpo": "dpo"}
"""Whose answers compare.jsonl holds, and what they are called."""

EXPLAINED = {
    "displacement": "over half of the evaluation pairs have a chosen log-prob that fell below the reference's",
    "reward_collapse": "both mean rewards fell by more than 1: the policy has left both answers",
    "degeneration": "sampled answers end, parse or vary less than at the start by at least 0.2",
}
SHOWN = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "length/longer_wins",
    "logps/chosen_change",
    "logps/rejected_change",
    "displacement",
    "kl",
    "json_rate",
    "samples/length",
    "samples/eos_rate",
    "samples/repetition",
)


def spark(values: list[float], width: int = 48) -> str:
    """A curve of block characters, from its lowest to its highest value."""
    if len(values) > width:
        values = [values[i * len(values) // width] for i in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def summary(run: RunDir) -> None:
    """Reward curves, before and after, flags, and a few answers of a finished run."""
    result = run.read("summary")
    show_curves(run)
    terminal.result(sentence(result["margin_change"]))
    for name, raised in result["flags"].items():
        if raised:
            terminal.result((f"flag: {name}", "bold"), f" - {EXPLAINED[name]}")
    if not any(result["flags"].values()):
        terminal.result("no flags: " + ", ".join(result["flags"]))
    if any(True for _ in run.rows(run.compare)):
        show_answers([run.path], None, limit=4)
    terminal.result(f"curves: {run.curves}")
    terminal.result(f"more answers: dpo compare {run.path}")


def show_curves(run: RunDir) -> None:
    """Reward curves, and the first and last evaluation of a finished run."""
    result = run.read("summary")
    training = [row for row in run.rows(run.metrics) if row["kind"] == "train"]
    if training:
        terminal.result(("Training", "bold"), " (first to last step)")
        for name in CURVES:
            values = [row[f"train/{name}"] for row in training]
            terminal.result(f"  {name:<20} {spark(values)}  {values[0]:+.3f} to {values[-1]:+.3f}")
    last = f"step {result['steps']}"
    sheet = Sheet("Evaluation", ("metric", "start", last), right=("start", last))
    for name in SHOWN:
        if f"eval/{name}" in result["last"]:
            values = [result[when].get(f"eval/{name}", float("nan")) for when in ("first", "last")]
            sheet.add(name, *(f"{value:.4f}" for value in values))
    sheet.show()


def show_agreement(run: RunDir, values: dict[str, float]) -> None:
    """A reward model beside the implicit reward of a policy's run, on the same held-out pairs."""
    columns = ("held-out pairs", "implicit (policy)", "explicit (reward model)")
    sheet = Sheet(f"against {run.path.name}", columns, right=columns[1:])
    for name in [key.removeprefix("explicit/") for key in values if key.startswith("explicit/")]:
        sides = [values.get(f"{side}/{name}") for side in ("implicit", "explicit")]
        sheet.add(name, *("none fits" if value is None else f"{value:.4f}" for value in sides))
    sheet.show()
    shared = f"both prefer the same side on {values['agreement']:.3f} of {values['pairs']:.0f} pairs; rank correlation"
    found = f"of their margins {values['spearman']:+.3f}" if "spearman" in values else "none"
    terminal.result(f"{shared} {found}" if "spearman" in values else f"{shared}: {found}")


def answers_of(run: RunDir, prompt: str | None) -> list[dict[str, str]]:
    """The recorded base, SFT and DPO answers of a run, or fresh answers to `prompt`, under compare.jsonl's keys."""
    if prompt is not None:
        from dpo.score import answer_prompt

        return [answer_prompt(run, prompt)]
    rows = list(run.rows(run.compare))
    if not rows:
        raise UsageError(f"{run.compare}: no answers recorded; is this a finished run with evaluate.greedy above 0?")
    for number, row in enumerate(rows, 1):
        if not is_comparison(row):
            raise Damaged(run.compare, f"line {number} holds no answers")
    return rows


def show_answers(runs: list[Path], prompt: str | None, limit: int | None = None, json: bool = False) -> None:
    """Answers of each run side by side, as a table for each or all of them as JSON."""
    found = [(path, answers_of(RunDir(path), prompt)[:limit]) for path in runs]
    if json:
        terminal.as_json([{"run": str(path), "answers": rows} for path, rows in found])
        return
    titles = ("prompt", *SIDES.values())
    for path, rows in found:
        sheet = Sheet(path.name, titles, long=titles)
        for row in rows:
            asked = row["prompt"].replace("### Instruction:\n", "").replace("\n\n### Response:\n", "")
            sheet.add(*(text.strip() for text in (asked, *(row[side] for side in SIDES))))
        sheet.show()


def show_tokens(config: Any, count: int) -> None:
    """Prompt, completion and EOS tokens of the first training pairs, coloured, with ids; loads only the tokenizer."""
    from dpo.data.audit import repeats_prompt
    from dpo.data.ends import ends
    from dpo.data.pair import check_pairs
    from dpo.data.prepare import stop_if_told
    from dpo.data.tokens import tokenise

    split = config.perturb.apply(config.dataset.load())
    check_pairs(split.train, "training pairs")
    share = sum(map(repeats_prompt, split.train)) / len(split.train)
    stop_if_told({"findings": config.audit.findings({"prompt_in_answer": share})})
    tokenizer = config.model.tokenizer(Path(config.cache_root))
    closing = ends(tokenizer)
    t, drop = config.train, config.dataset.drops_long_prompts
    pairs, counts = tokenise(split.train[:count], tokenizer, t.max_length, t.max_merge_share, drop)
    terminal.result(
        "prompt tokens ",
        ("grey", "dim"),
        " (not scored), completion tokens alternating, ",
        ("EOS", "reverse"),
        " reversed",
    )
    for pair in pairs:
        terminal.result("\n", (pair.id, "bold"), f"  prompt {len(pair.prompt_ids)} tokens")
        for side, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
            pieces = [(token_text(tokenizer, token), "dim") for token in pair.prompt_ids]
            for position, token in enumerate(ids):
                style = "reverse" if token in closing else ("bold cyan", "bold yellow")[position % 2]
                pieces.append((token_text(tokenizer, token), style))
            terminal.result(f"{side} ({len(ids)}): ", *pieces)
            terminal.result((f"  ids {' '.join(map(str, ids))}", "dim"))
    terminal.result(", ".join(f"{name} {number}" for name, number in counts.items()))


def token_text(tokenizer: Any, token: int) -> str:
    """A token's text with its line breaks shown."""
    return str(tokenizer.decode([token])).replace("\n", "↵")
