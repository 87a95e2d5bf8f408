"""`make bench`: every case on both sides in turn, in processes of their own; writes results, table and chart.

python -m bench [CASE | growth | gpu]   one case, or one part: its rows of bench/results/latest.json are replaced
python -m bench --resume                only the cases that latest.json lacks for these versions
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine, page
from bench.cases import CASES, GPU_CASES, Case, growth
from bench.material import work
from bench.ours import STACKED
from bench.sides import ours, peaks, theirs
from bench.theirs import BEST, DEFAULT

RESULTS = Path(__file__).parent / "results" / "latest.json"
GPU = ("gpu", *(case.name for case in GPU_CASES))
"""What may be asked for that only a GPU can measure."""
MEMORY = ("peak_memory_135m_long_prompt", "train_135m_long_prompt_fp32")
WEIGHTS = {"weights": "bfloat16"}
LIGER = [{**WEIGHTS, "use_liger_kernel": True}] if importlib.util.find_spec("liger_kernel") else []
OPTIONS = {
    "train_135m_bf16": [{}, WEIGHTS],
    "train_135m_long_prompt_bf16": [{}, WEIGHTS],
} | {case.name: [WEIGHTS, *LIGER] for case in GPU_CASES}
"""Settings of TRL that are tried beside BEST; the fastest counts."""
ONE_THREAD, BF16 = "train.threads=1", "model.dtype=bfloat16"
ON_GPU = [[BF16], *([["model=hf_liger", BF16]] if LIGER else [])]
OURS = {"train_tiny_fp32": [[], [ONE_THREAD]], "sweep8_tiny": [[], [STACKED, "hydra.launcher.bit_equal=false"]]} | {
    case.name: [[*settings, STACKED] for settings in ON_GPU] if case.betas > 1 else ON_GPU for case in GPU_CASES
}
"""Settings of ours that are tried, for the same reason as TINY_THREADS; the fastest counts."""
TINY_THREADS = ("train_tiny_fp32",)
"""Very small models may be faster on one thread: TRL is timed with one and with all, and its faster one counts."""


class Wrong(Exception):
    """The two sides disagree about the losses."""


def say(text: str) -> None:
    """A line at once."""
    print(text, file=sys.stderr, flush=True)


def measure(case: Case) -> dict[str, Any]:
    """Both sides in turn, `repeats` times; medians, losses compared."""
    all_ours: dict[int, list[dict[str, Any]]] = {}
    their_runs: dict[int, list[dict[str, Any]]] = {}
    tried = OURS.get(case.name, [[]])
    for repeat in range(case.repeats):
        for number, (settings, threads) in enumerate(choices(case)):
            run = theirs(case, settings, threads)
            their_runs.setdefault(number, []).append(run)
            say(f"  TRL {settings}{f' threads={threads}' if threads else ''}: {seconds_of(case, run):.4f} s")
        for number, mine in enumerate(tried):
            run = ours(case, settings=mine)
            all_ours.setdefault(number, []).append(run)
            say(f"  ours {' '.join(mine)}: {seconds_of(case, run):.4f} s ({repeat + 1} of {case.repeats})")
    best, our_best = fastest(case, their_runs), fastest(case, all_ours)
    our_runs = all_ours[our_best]
    settings, threads = choices(case)[best]
    row = {
        "unit": "seconds per sweep" if case.betas > 1 else "seconds per step",
        "batch": case.batch,
        "steps": case.steps,
        "pairs": case.pairs,
        "betas": case.betas,
        "trl_settings": settings | ({"threads": threads} if threads else {}),
        "our_settings": list(tried[our_best]),
        "trl_all": {str(choices(case)[n]): summary(case, runs) for n, runs in their_runs.items()},
        "trl": summary(case, their_runs[best]),
        "ours": summary(case, our_runs),
        "gflop": {"ours": work(case, True) / 1e9, "trl": work(case, False) / 1e9},
        "loss_difference": compare(case, their_runs[best], our_runs),
    }
    row["ratio"] = row["trl"]["seconds"] / row["ours"]["seconds"]
    return row


def fastest(case: Case, runs: dict[int, list[dict[str, Any]]]) -> int:
    """Which settings had the smallest median."""
    return min(runs, key=lambda n: statistics.median(seconds_of(case, run) for run in runs[n]))


def choices(case: Case) -> list[tuple[dict[str, Any], int | None]]:
    """The settings (and thread counts) under which TRL is timed."""
    threads = (1, None) if case.name in TINY_THREADS else (None,)
    return [(BEST | more, count) for more in OPTIONS.get(case.name, [{}]) for count in threads]


def seconds_of(case: Case, run: dict[str, Any]) -> float:
    """What a case is about: the whole sweep, or a step (the median of those after the first)."""
    return run["process"] if case.betas > 1 else statistics.median(run["step_seconds"])


def summary(case: Case, runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the repeats."""
    middle = {name: statistics.median(run[name] for run in runs) for name in ("peak_mb", "first_step", "process")}
    seconds = statistics.median(seconds_of(case, run) for run in runs)
    spread = [seconds_of(case, run) for run in runs]
    per_pair = seconds / (case.batch if case.betas == 1 else case.pairs * case.betas)
    return middle | {"seconds": seconds, "seconds_per_pair": per_pair, "fastest": min(spread), "slowest": max(spread)}


def compare(case: Case, their_runs: list[dict[str, Any]], our_runs: list[dict[str, Any]]) -> float:
    """The largest difference of the two sides' losses at any step; raises Wrong above the case's tolerance."""
    a, b = their_runs[0]["losses"], our_runs[0]["losses"]
    if len(a) != len(b) or len(a) != case.steps * case.betas:
        raise Wrong(f"{case.name}: TRL took {len(a)} steps, we {len(b)}, asked for {case.steps * case.betas}")
    difference = max(abs(x - y) for x, y in zip(a, b, strict=True))
    moved = max(abs(x - a[0]) for x in a)
    finite = all(map(math.isfinite, a + b))  # max() would pass over a NaN
    if not finite or difference > case.tolerance or moved < 2 * difference:
        raise Wrong(
            f"{case.name}: losses differ by {difference:.3g} (allowed {case.tolerance}, moved by {moved:.3g})"
            f"\n  TRL  {a}\n  ours {b}"
        )
    say(f"  losses agree to {difference:.2g}; they moved by {moved:.2g}")
    return difference


def defaults() -> dict[str, Any]:
    """TRL as it comes (checkpointing on, the reference scored again in every step), once."""
    case = next(case for case in CASES if case.name == "train_135m_fp32")
    run = theirs(case, dict(DEFAULT))
    say(f"TRL's default settings {DEFAULT}: {seconds_of(case, run):.3f} s a step")
    return {"case": case.name, "settings": DEFAULT, **summary(case, [run])}


def growing() -> dict[str, Any]:
    """Time and memory of our side as one thing grows; with growth exponents."""
    table: dict[str, Any] = {}
    for case in growth():
        _, what, factor = case.name.split("/")
        runs = [ours(case) for _ in range(case.repeats)]
        whole = statistics.median(run["total"] - run["first_step"] for run in runs)
        step = statistics.median(statistics.median(run["step_seconds"]) for run in runs)
        seconds = whole if what in ("pairs", "grid") else step
        peak = statistics.median(run["peak_mb"] for run in runs)
        table.setdefault(what, {})[factor] = {
            "seconds": seconds,
            "peak_mb": peak,
            "reference_passes": runs[0]["misses"],
        }
        say(f"growth: {what} x {factor}: {seconds:.3f} s, {peak:.0f} MB, {runs[0]['misses']} reference pass")
    for rows in table.values():
        (small, a), (large, b) = rows.items()
        rows["exponents"] = {
            name: page.exponent(a[name], b[name], int(large) / int(small)) for name in ("seconds", "peak_mb")
        }
    with tempfile.TemporaryDirectory() as cache:
        passes = [ours(growth()[-1], cache)["misses"] for _ in range(2)]
    say(f"reference passes of a sweep and of the same sweep again: {passes}")
    return table | {"passes": passes}


def ratios(cases: dict[str, Any]) -> dict[str, float]:
    """TRL's best time over ours by case, and its peak memory over ours."""
    found = {name: row["ratio"] for name, row in cases.items()}
    if MEMORY[1] in cases:
        found[MEMORY[0]] = cases[MEMORY[1]]["trl"]["peak_mb"] / cases[MEMORY[1]]["ours"]["peak_mb"]
    return found


def save(results: dict[str, Any]) -> None:
    """Write latest.json, and the page of the docs from it."""
    for part in (results, results.get("gpu")):
        if part is not None:
            part["ratios"] = ratios(part["cases"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    page.write(results, RESULTS.parent.parent.parent / "docs")


def start(resume: bool, only: str | None) -> dict[str, Any]:
    """The results so far, where they are to be added to and were measured by the same versions on such a machine.

    Those of a GPU stay until a GPU measures them again; where it alone is asked for, all others stay too.
    """
    fresh = empty(machine.facts())
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if only in GPU and old:
        return old
    if (resume or only) and all(old.get(name) == fresh[name] for name in ("machine", "versions")):
        return old
    return fresh | ({"gpu": old["gpu"]} if "gpu" in old else {})


def empty(facts: dict[str, Any]) -> dict[str, Any]:
    """Nothing measured yet on this machine."""
    return {"machine": facts, "versions": machine.versions(), "peak_gflops": {}, "cases": {}, "failed": {}}


def part_of_gpu(results: dict[str, Any], gpu: dict[str, Any] | None, resume: bool) -> dict[str, Any] | None:
    """The part of the results that this machine's GPU adds to; None where it has none."""
    if gpu is None:
        return None
    fresh, old = empty({"gpu": gpu["name"]}), results.get("gpu", {})
    same = all(old.get(name) == fresh[name] for name in ("machine", "versions"))
    results["gpu"] = (old if same and resume else fresh) | {"peak_gflops": gpu}
    return results["gpu"]


def run(case: Case, part: dict[str, Any]) -> None:
    """Measure a case and put its row, or why there is none, in its part of the results."""
    say(f"{case.name}: {case.steps} steps of {case.batch} pairs, {case.adapter}, {case.precision}")
    part["failed"].pop(case.name, None)
    try:
        row = measure(case)
        row["peak_gflops"] = part["peak_gflops"]["bfloat16" if case.precision == "bf16" else "float32"]
        if case.betas == 1:
            row["share_of_peak"] = row["gflop"]["ours"] / row["ours"]["seconds"] / row["peak_gflops"]
        part["cases"][case.name] = row
        say(f"  TRL / ours: {row['ratio']:.2f}")
    except (Wrong, RuntimeError) as error:
        say(f"  FAILED: {error}")
        part["cases"].pop(case.name, None)
        part["failed"][case.name] = str(error)


def main() -> int:
    """0, or 1 where a case failed or the sides' losses disagree."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("only", nargs="?", choices=[*(case.name for case in CASES), "growth", "defaults", *GPU])
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    begin = time.perf_counter()
    results, peak = start(asked.resume, asked.only), peaks()
    found = peak.pop("gpu", None) if asked.only in (None, *GPU) else None
    gpu = part_of_gpu(results, found, asked.resume or asked.only not in (None, "gpu"))
    if asked.only not in GPU or not results["peak_gflops"]:
        results["peak_gflops"] = peak
    say(f"matrix products: {peak['float32']:.0f} GFLOP/s in fp32, {peak['bfloat16']:.0f} in bf16")
    say(f"TRL's best settings: {BEST}; its defaults: {DEFAULT}")
    for case in (*CASES, *GPU_CASES):
        part = gpu if case in GPU_CASES else results
        wanted = asked.only in (None, case.name) or (asked.only == "gpu" and case in GPU_CASES)
        if wanted and part is None:
            say(f"{case.name}: left open, there is no GPU here")
        if not wanted or part is None or (asked.resume and case.name in part["cases"]):
            continue
        run(case, part)
        save(results)
    if asked.only in (None, "growth") and not (asked.resume and "growth" in results):
        results["growth"] = growing()
    if asked.only in (None, "defaults") and not (asked.resume and "trl_defaults" in results):
        results["trl_defaults"] = defaults()
    minutes = round((time.perf_counter() - begin) / 60, 1)
    if asked.only is None:
        results["minutes"] = minutes
    save(results)
    say(f"{minutes} minutes; {RESULTS}")
    return 1 if any(part["failed"] for part in (results, gpu) if part is not None) else 0


if __name__ == "__main__":
    sys.exit(main())
