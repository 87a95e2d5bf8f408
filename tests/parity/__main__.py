"""`python -m tests.parity`: compare every loss that TRL has, print the table, write docs/parity.md.

Exit code 0 where all agree, 1 where one does not, 2 without TRL.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
WITHIN, CURVE_WITHIN = 1e-4, 1e-3

INTRODUCTION = """# Agreement with TRL

Written by `make parity`; do not edit. The same random models (policy and reference differ), the same pairs of
unequal lengths, once through TRL {trl}'s own trainer (its `compute_loss` and the metrics it logs, one batch) and
once through this project's evaluation and training step (micro-batches of at most 150 tokens). fp32 on a CPU,
torch {torch}, transformers {transformers}.

"Largest difference" is the largest relative difference of loss, rewards/chosen, rewards/rejected, rewards/margins
and rewards/accuracies; at most {within:g} passes.
"""
CURVES_INTRODUCTION = """
## Training curves

Twenty full-batch AdamW steps from the same start: the largest relative difference of the loss before any step; at
most {within:g} passes.
"""
MISSING = """
## What TRL {trl} does not have, or has under the same name as something else

- `sigmoid` with `label_smoothing` (cDPO): its DPOTrainer takes the argument and ignores it for this loss; here it is
  compared on `cpo`, whose trainer reads it.
- `robust`, `exo_pair`, `aot`: label smoothing means the same on both sides.
- `rdpo`, `dpop`, `tdpo`, `ipo_sum`, `kto_pair`, `sft_weight`, `reference_free` and `bco_pair` with a running mean: not
  in TRL {trl}'s pair trainers (its KTOTrainer takes single answers). The SFT term is covered by the sum and by `cpo`.
- TRL's accuracy counts a tie as wrong, ours as one half; there is none among these pairs.
"""


def main() -> int:
    """Run every case and curve; see the module's docstring for the exit code."""
    if importlib.util.find_spec("trl") is None:
        print("parity: TRL is not installed; `pip install trl==1.16` in this environment first", file=sys.stderr)
        return 2
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1"}
    warnings.filterwarnings("ignore")
    import torch
    from datasets import disable_progress_bars

    from tests.parity.cases import CASES, CURVES
    from tests.parity.compare import STEPS, curve_difference, differences

    torch.set_num_threads(1)
    disable_progress_bars()
    lines = ["| loss | TRL | ours | largest difference | note |", "|---|---|---|---|---|"]
    failed = []
    for case in CASES:
        with quiet():
            found = differences(case)
        worst = max(d for _, _, d in found.values())
        failed += [case.name] if worst > WITHIN else []
        note = case.note or ("loss only" if case.loss_only else "")
        lines.append(f"| {case.name} | {found['loss'][0]:.6g} | {found['loss'][1]:.6g} | {worst:.1e} | {note} |")
    curves = ["| loss | TRL, first to last step | ours | largest difference |", "|---|---|---|---|"]
    for case in CURVES:
        with quiet():
            their, our, worst = curve_difference(case)
        failed += [f"{case.name} curve"] if worst > CURVE_WITHIN else []
        ends = " | ".join(f"{losses[0]:.6g} to {losses[STEPS - 1]:.6g}" for losses in (their, our))
        curves.append(f"| {case.name} | {ends} | {worst:.1e} |")
    versions = {name: version(name) for name in ("trl", "torch", "transformers")}
    page = INTRODUCTION.format(within=WITHIN, **versions) + "\n" + "\n".join(lines) + "\n"
    page += CURVES_INTRODUCTION.format(within=CURVE_WITHIN) + "\n" + "\n".join(curves) + "\n"
    page += MISSING.format(**versions)
    print(page)
    if failed:
        print(f"parity: no agreement on {', '.join(failed)}; docs/parity.md is left as it was", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """Keep trainers' prints and bars off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    sys.exit(main())
