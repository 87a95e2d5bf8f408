"""What people read in a terminal: summaries, tables, coloured tokens. Everything goes to stderr."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpo.errors import UsageError
from dpo.evaluate.change import sentence
from dpo.records import RunDir, find_runs

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")

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


def console() -> Console:
    """A console on stderr; wide enough for a table where there is no terminal."""
    out = Console(stderr=True, highlight=False)
    return out if out.is_terminal else Console(stderr=True, highlight=False, width=120)


def spark(values: list[float], width: int = 48) -> str:
    """A curve of block characters, from its lowest to its highest value."""
    if len(values) > width:
        values = [values[i * len(values) // width] for i in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def summary(run: RunDir) -> None:
    """Reward curves, before and after, flags, and a few answers of a finished run."""
    out, result = console(), run.read("summary")
    show_curves(run)
    out.print(sentence(result["margin_change"]))
    for name, raised in result["flags"].items():
        if raised:
            out.print(f"[bold]flag: {name}[/bold] - {EXPLAINED[name]}")
    if not any(result["flags"].values()):
        out.print("no flags: " + ", ".join(result["flags"]))
    if any(True for _ in run.rows(run.compare)):
        show_answers([run.path], None, limit=4)
    out.print(f"curves: {run.curves}\nmore answers: dpo compare {run.path}", soft_wrap=True)


def show_curves(run: RunDir) -> None:
    """Reward curves, and the first and last evaluation of a finished run."""
    out, result = console(), run.read("summary")
    training = [row for row in run.rows(run.metrics) if row["kind"] == "train"]
    if training:
        out.print("\n[bold]Training[/bold] (first to last step)")
        for name in CURVES:
            values = [row[f"train/{name}"] for row in training]
            out.print(f"  {name:<20} {spark(values)}  {values[0]:+.3f} to {values[-1]:+.3f}")
    table = Table(title="Evaluation", title_justify="left")
    table.add_column("metric")
    for title in ("start", f"step {result['steps']}"):
        table.add_column(title, justify="right")
    for name in SHOWN:
        if f"eval/{name}" in result["last"]:
            table.add_row(
                name, *(f"{result[when].get(f'eval/{name}', float('nan')):.4f}" for when in ("first", "last"))
            )
    out.print(table)


def show_agreement(run: RunDir, values: dict[str, float]) -> None:
    """A reward model beside the implicit reward of a policy's run, on the same held-out pairs."""
    out = console()
    table = Table(title=f"against {run.path.name}", title_justify="left")
    for title in ("held-out pairs", "implicit (policy)", "explicit (reward model)"):
        table.add_column(title, justify="left" if title == "held-out pairs" else "right")
    for name in [key.removeprefix("explicit/") for key in values if key.startswith("explicit/")]:
        sides = [values.get(f"{side}/{name}") for side in ("implicit", "explicit")]
        table.add_row(name, *("none fits" if value is None else f"{value:.4f}" for value in sides))
    out.print(table)
    shared = f"both prefer the same side on {values['agreement']:.3f} of {values['pairs']:.0f} pairs; rank correlation"
    out.print(f"{shared} of their margins {values['spearman']:+.3f}" if "spearman" in values else f"{shared}: none")


def list_runs(root: Path) -> None:
    """A line for each run below `root`: state, steps, and its last evaluation."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory")
    found = find_runs(root)
    if not found:
        raise UsageError(f"{root}: no runs here; `dpo train` makes one")
    table = Table()
    for title in ("run", "state", "step", "loss", "margin", "accuracy", "displaced", "flags"):
        table.add_column(title, justify="left" if title in ("run", "state", "flags") else "right", overflow="fold")
    for run in found:
        rows = [row for row in run.rows(run.metrics) if row["kind"] == "eval"]
        last: dict[str, Any] = rows[-1] if rows else {}
        keys = ("eval/loss", "eval/rewards/margins", "eval/rewards/accuracies", "eval/displacement")
        numbers = [f"{last[key]:.4f}" if key in last else "" for key in keys]
        flagged = run.read("summary")["flags"] if state(run) == "done" else {}
        table.add_row(
            str(run.path.relative_to(root)),
            state(run),
            str(last.get("step", "")),
            *numbers,
            " ".join(name for name, raised in flagged.items() if raised),
        )
    console().print(table)


def state(run: RunDir) -> str:
    """status.json's state; "interrupted" where it says running and no process holds the run's lock."""
    said = str(run.status()["state"])
    if said != "running" or not run.lock.exists():
        return said
    with run.lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return "running"
    return "interrupted"


def show_answers(runs: list[Path], prompt: str | None, limit: int | None = None) -> None:
    """The recorded base, SFT and DPO answers of each run, or fresh answers to `prompt`."""
    out = console()
    for path in runs:
        run = RunDir(path)
        if prompt is None:
            rows = list(run.rows(run.compare))
            if not rows:
                raise UsageError(
                    f"{run.compare}: no answers recorded; is this a finished run with evaluate.greedy above 0?"
                )
        else:
            from dpo.score import answer_prompt

            rows = [answer_prompt(run, prompt)]
        table = Table(title=str(run.path.name), title_justify="left", show_lines=True)
        for title in ("prompt", "base", "sft (start)", "dpo"):
            table.add_column(title, overflow="fold", ratio=1)
        for row in rows[:limit]:
            asked = row["prompt"].replace("### Instruction:\n", "").replace("\n\n### Response:\n", "")
            table.add_row(*(Text(text.strip()) for text in (asked, row["base"], row["sft"], row["dpo"])))
        out.print(table)


def show_tokens(config: Any, count: int) -> None:
    """Prompt, completion and EOS tokens of the first training pairs, coloured, with ids; loads only the tokenizer."""
    from dpo.data.pair import check_pairs
    from dpo.data.tokens import tokenise

    out = console()
    split = config.perturb.apply(config.dataset.load())
    check_pairs(split.train, "training pairs")
    tokenizer = config.model.tokenizer(Path(config.cache_root))
    t, drop = config.train, config.dataset.drops_long_prompts
    pairs, counts = tokenise(split.train[:count], tokenizer, t.max_length, t.max_merge_share, drop)
    out.print(
        "prompt tokens [dim]grey[/dim] (not scored), completion tokens alternating, [reverse]EOS[/reverse] reversed"
    )
    for pair in pairs:
        out.print(f"\n[bold]{pair.id}[/bold]  prompt {len(pair.prompt_ids)} tokens")
        for side, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
            line = Text(f"{side} ({len(ids)}): ")
            for token in pair.prompt_ids:
                line.append(visible(tokenizer, token), style="dim")
            for position, token in enumerate(ids):
                style = "reverse" if token == tokenizer.eos_token_id else ("bold cyan", "bold yellow")[position % 2]
                line.append(visible(tokenizer, token), style=style)
            out.print(line)
            out.print(Text(f"  ids {' '.join(map(str, ids))}", style="dim"))
    out.print(", ".join(f"{name} {number}" for name, number in counts.items()))


def visible(tokenizer: Any, token: int) -> str:
    """A token's text with its line breaks shown."""
    return str(tokenizer.decode([token])).replace("\n", "↵")
