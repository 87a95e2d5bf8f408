"""docs/bench.md and docs/bench.svg, from bench/results/latest.json alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.cases import GPU_CASES

TARGETS = {
    "train_135m_fp32": 2.7,
    "train_135m_bf16": 4.0,
    "train_135m_long_prompt_fp32": 4.0,
    "train_135m_long_prompt_bf16": 6.0,
    "train_135m_full_fp32": 2.0,
    "train_tiny_fp32": 3.0,
    "sweep8_tiny": 6.0,
    "peak_memory_135m_long_prompt": 2.5,
}
"""What each ratio is meant to reach at least; a GPU's have no aim yet."""


def exponent(small: float, large: float, factor: float) -> float:
    """e where large = small x factor^e: 1 is linear growth, 0 none."""
    return math.log(large / small) / math.log(factor)


def write(results: dict[str, Any], docs: Path) -> None:
    """The page and its chart."""
    docs.mkdir(exist_ok=True)
    (docs / "bench.md").write_text(text(results), encoding="utf-8")
    (docs / "bench.svg").write_text(chart(results["ratios"]), encoding="utf-8")


def text(results: dict[str, Any]) -> str:
    """The page."""
    m, peak = results["machine"], results["peak_gflops"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# Speed and memory",
        "",
        "`make bench` writes this page. TRL and this project train on the same models (random weights), pairs,",
        "batches, steps and precision, in turn and in processes of their own; medians over the repeats; the losses of",
        "both sides are compared in the same run. TRL runs at its best settings (reference precomputed, no",
        "checkpointing; for bf16 with float32 and with bfloat16 weights, for the tiny shape with one thread and with",
        "all, as ours: the fastest counts).",
        "",
        f"Machine: {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB. Matrix products at most",
        f"{peak['float32']:.0f} GFLOP/s in fp32 and {peak['bfloat16']:.0f} in bf16, measured in the same run.",
        f"{versions}.",
        "",
        "![TRL's time over ours](bench.svg)",
        "",
        *table(results, TARGETS),
    ]
    lines += ["", "Seconds are per step, start-up included only in sweep8_tiny: eight betas, one process each for TRL."]
    lines += [
        f"Our settings in {name}, the fastest of those tried: {' '.join(row['our_settings'])}."
        for name, row in results["cases"].items()
        if row.get("our_settings")
    ]
    if "peak_memory_135m_long_prompt" in results["ratios"]:
        ratio = results["ratios"]["peak_memory_135m_long_prompt"]
        lines.append(f"Peak memory with long prompts in fp32: TRL's is {ratio:.2f} times ours (aim 2.5).")
    if "trl_defaults" in results:
        d = results["trl_defaults"]
        lines.append(f"TRL's own defaults ({d['settings']}) took {d['seconds']:.2f} s a step of {d['case']}.")
    lines += [f"Failed: {why.splitlines()[0]}" for why in results["failed"].values()]
    return "\n".join([*lines, *growth(results.get("growth", {})), *on_gpu(results.get("gpu"))]) + "\n"


def table(part: dict[str, Any], aims: dict[str, float]) -> list[str]:
    """A row for each case."""
    lines = [
        "| case | TRL s | ours s | ratio | aim | TRL MB | ours MB | first step s: TRL, ours | share of peak "
        "| losses differ by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in part["cases"].items():
        a, b = row["trl"], row["ours"]
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        aim = f"{aims[name]:g}" if name in aims else ""
        lines.append(
            f"| {name} | {a['seconds']:.3f} | {b['seconds']:.3f} | {row['ratio']:.2f} | {aim} "
            f"| {a['peak_mb']:.0f} | {b['peak_mb']:.0f} | {a['first_step']:.1f}, {b['first_step']:.1f} | {share} "
            f"| {row['loss_difference']:.1g} |"
        )
    return lines


def on_gpu(part: dict[str, Any] | None) -> list[str]:
    """The same cases on a Llama of 1B; open where no GPU has measured them."""
    part = part or {"cases": {}, "failed": {}}
    lines = [
        "",
        "## On a GPU",
        "A Llama of 1B's shape in bf16, adapters on q and v, bfloat16 weights; TRL with its fused head. Both sides",
        "also try Liger's kernels where they are installed (ours: `model=hf_liger`). The sweep is stacked on our side.",
        "Memory is the GPU's; the share of its peak is what others call MFU.",
        "",
    ]
    if part["cases"]:
        peak = part["peak_gflops"]["bfloat16"] / 1000
        versions = ", ".join(f"{name} {number}" for name, number in part["versions"].items())
        lines += [f"{part['machine']['gpu']}: matrix products at most {peak:.0f} TFLOP/s in bf16. {versions}.", ""]
    lines += table(part, {})
    opened = [case.name for case in GPU_CASES if case.name not in part["cases"] and case.name not in part["failed"]]
    lines += [f"| {name} | open | open | open | | | | | | |" for name in opened]
    if opened:
        lines += ["", "Open: not measured yet for want of a GPU; `make bench ONLY=gpu` does it where there is one."]
    return lines + [f"Failed: {why.splitlines()[0]}" for why in part["failed"].values()]


def growth(table: dict[str, Any]) -> list[str]:
    """The growth table's lines."""
    if not table:
        return []
    lines = [
        "",
        "## Growth",
        "Our side alone, a small Llama. An exponent of 1 is linear, 0 is flat. Pairs and grid: the whole run after the",
        "first step; prompt and vocabulary: a step. Memory is the process's peak, libraries included.",
        "",
        "| what grows | seconds | exponent | MB | exponent | reference passes |",
        "|---|---|---|---|---|---|",
    ]
    for what, rows in table.items():
        if what == "passes":
            continue
        (small, a), (large, b) = [(k, v) for k, v in rows.items() if k != "exponents"]
        e = rows["exponents"]
        lines.append(
            f"| {what} x {int(large) // int(small)} | {a['seconds']:.3f} to {b['seconds']:.3f} | {e['seconds']:.2f} "
            f"| {a['peak_mb']:.0f} to {b['peak_mb']:.0f} | {e['peak_mb']:.2f} | {b['reference_passes']} |"
        )
    first, second = table["passes"]
    return [*lines, "", f"Reference passes of a sweep: {first}; of a second one on the same model and data: {second}."]


def chart(ratios: dict[str, float]) -> str:
    """Horizontal bars of the ratios with a tick at each aim."""
    left, unit, row = 250, 60.0, 26
    most = max([*ratios.values(), *TARGETS.values(), 1.0])
    unit = 420 / most
    height = row * len(ratios) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (name, value) in enumerate(ratios.items()):
        y, aim = 12 + i * row, TARGETS.get(name)
        out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{value * unit:.1f}" height="18" fill="#4477aa"/>')
        end = left + value * unit - 6  # inside the bar: beside it an aim would cross the number
        out.append(f'<text x="{end:.1f}" y="{y + 13}" text-anchor="end" fill="white">{value:.2f}</text>')
        if aim:
            x = left + aim * unit
            out.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + 20}" stroke="#cc3311" stroke-width="2"/>'
            )
    x = left + unit
    out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 26}" stroke="#bbbbbb" stroke-dasharray="3 3"/>')
    out.append(
        f'<text x="{left}" y="{height - 8}">TRL / ours (more is better); dashed: equal; red: the aim</text></svg>'
    )
    return "\n".join(out) + "\n"
