"""`dpo audit`: the data report of a configuration, before any training; loads a tokenizer and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo import terminal
from dpo.config import Config
from dpo.console import BLOCKS
from dpo.data.prepare import Prepared, prepare, stop_if_told, text_hash
from dpo.disk import make_folder
from dpo.json_files import write_json
from dpo.progress import say
from dpo.records import RunDir
from dpo.terminal import Sheet

ALWAYS = ("rows", "dropped", "pairs", "chosen_longer_characters", "overlap", "identical", "contradictory")
NOT_COUNTS = ("shares", "train", "evaluation", "probe", "findings", "chosen_longer_characters_pairs")
STYLES = {"stop": "bold red", "warn": "bold yellow", "note": "dim"}


def audit(config: Config) -> Path:
    """Show the report and write audit.json and perturb.json; the path of the former."""
    from dpo.run import load_data

    made = prepare_run(config, load_data(config))
    folder = Path(config.output_root) / "audit" / f"{dataset_name(config)}-{text_hash(made.split)[:8]}"
    make_folder(folder)
    write_json(folder / "perturb.json", {"pairs": made.split.changes})
    write_json(folder / "audit.json", made.audit)
    show(made.audit)
    return folder / "audit.json"


def prepare_run(config: Config, split: Any) -> Prepared:
    """The token pairs and the audit of a split under a run's settings."""
    t, cache = config.train, Path(config.cache_root)
    tokenizer, drop = config.model.tokenizer(cache), config.dataset.drops_long_prompts
    return prepare(split, tokenizer, t.max_length, t.max_merge_share, drop, config.audit, cache)


def write_audit(directory: RunDir, made: Prepared) -> None:
    """audit.json, and perturb.json where pairs were touched; warnings are said aloud, and a stop is raised."""
    stop_if_told(made.audit)
    for finding in made.audit["findings"]:
        if finding["level"] == "warn":
            say(f"warning: {finding['text']}")
    directory.write("audit", made.audit)
    if made.split.changes:
        directory.write("perturb", {"pairs": made.split.changes})


def dataset_name(config: Config) -> str:
    """The module of a run's data set, for names of folders."""
    return str(config.plain["dataset"]["_target_"].rsplit(".", 2)[1])


def show(report: dict[str, Any]) -> None:
    """The audit as a compact table with histograms, and what deserves a word."""
    counts = {name: value for name, value in report.items() if name not in NOT_COUNTS}
    shown = [f"{name} {number(value)}" for name, value in counts.items() if value or name in ALWAYS]
    terminal.result(("Counts", "bold"), "  " + " · ".join(shown))
    for part in ("train", "evaluation"):
        show_part(part, report[part])
    terminal.result(("Surface", "bold"), f"  {report['probe']['sentence']}")
    for tell in report["probe"]["tells"]:
        shares = f"{tell['chosen_only']:>5.0%} chosen only, {tell['rejected_only']:>5.0%} rejected only"
        terminal.result(f"  {shares}: {terminal.line(tell['feature'])}")
    for finding in report["findings"]:
        terminal.result((finding["level"], STYLES[finding["level"]]), f" {terminal.line(finding['text'])}")


def show_part(part: str, found: dict[str, Any]) -> None:
    """Lengths of one part of the data."""
    numbers = ("5 %", "median", "95 %", "mean")
    sheet = Sheet(f"{part}: {found['pairs']} pairs", ("tokens", *numbers, "distribution"), right=numbers)
    for side in ("prompt", "chosen", "rejected", "difference"):
        d = found[f"{side}_tokens"]
        default = found["chosen_tokens_mean"] - found["rejected_tokens_mean"]
        mean = found.get(f"{side}_tokens_mean", default)
        edges = f"{d['edges'][0]:.0f} {histogram(d['histogram'])} {d['edges'][-1]:.0f}"
        name = "chosen - rejected" if side == "difference" else side
        sheet.add(name, *(str(round(v)) for v in (d["p5"], d["p50"], d["p95"])), f"{mean:.1f}", edges)
    sheet.show()
    low, high = found["longer_wins_interval"]
    terminal.result(
        f"  longer wins {found['longer_wins']:.0%} ({low:.0%} to {high:.0%}) · cut: chosen "
        f"{found['truncated_chosen']}, rejected {found['truncated_rejected']} · EOS lost {found['eos_lost']} · "
        f"merged boundaries {found['boundary_merges']}"
    )


def number(value: float) -> str:
    """A count, or a share or mean to three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def histogram(counts: list[int]) -> str:
    """Counts as blocks; a bin with anything in it never looks empty."""
    most = max(counts) or 1
    return "".join(" " if not c else BLOCKS[min(7, c * 8 // (most + 1))] for c in counts)
