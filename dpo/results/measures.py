"""What can be said of each evaluation pair from its row: margins, log-ratio differences, wins, lengths.

The definitions are those of docs/metrics.md, on whole columns of a per-pair table (shape (B,), float64).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpo.pair_tables import other_pair

if TYPE_CHECKING:
    from dpo.results.frames import Run

CLASSES = ("chosen longer", "equal", "chosen shorter")


def add(pairs: pd.DataFrame, tie: float, own_score: bool, start: pd.DataFrame | None = None) -> pd.DataFrame:
    """The table with what follows from its columns:

    margin             chosen minus rejected reward (beta x nats; a loss without a reference: its own score)
    c, r, d            log-ratios policy minus reference of both answers, and c - r, in nats
    win                1 where the chosen answer is preferred, 0 where the rejected, one half for a tie
    displaced          whether c is below 0 by more than rounding
    length_difference  chosen minus rejected tokens; length_class one of CLASSES; balanced: in the balanced subset
    chosen_change, rejected_change   change of the log-prob since step 0 (with `start`)
    prompt             hash of the prompt; the pair's own id where the table has none
    c, r, d and what follows from them are absent for a reward model.
    """
    frame = pairs.copy()
    frame["margin"] = frame["chosen_reward"] - frame["rejected_reward"]
    decides, scale = frame["margin"], frame["chosen_reward"].abs() + frame["rejected_reward"].abs()
    if "chosen_ref_logp" in frame:
        names = ("chosen_logp", "chosen_ref_logp", "rejected_logp", "rejected_ref_logp")
        policy_c, reference_c, policy_r, reference_r = (frame[name] for name in names)
        frame["c"], frame["r"] = policy_c - reference_c, policy_r - reference_r
        frame["d"] = frame["c"] - frame["r"]
        frame["displaced"] = frame["c"] < -tie * (policy_c.abs() + reference_c.abs())
        if not own_score and not frame["d"].isna().any():
            decides, scale = frame["d"], sum((frame[name].abs() for name in names), start=pd.Series(0.0, frame.index))
    frame["win"] = np.where(decides.abs() <= tie * scale, 0.5, (decides > 0).astype(float))
    difference = frame["chosen_tokens"] - frame["rejected_tokens"]
    frame["length_difference"] = difference
    frame["length_class"] = [CLASSES[1 - int(sign)] for sign in np.sign(difference)]
    frame["balanced"] = balanced(difference.to_numpy())
    if start is not None and "chosen_logp" in frame and other_pair(start, frame) is None:
        for side in ("chosen", "rejected"):
            frame[f"{side}_change"] = frame[f"{side}_logp"].to_numpy() - start[f"{side}_logp"].to_numpy()
    if "prompt" not in frame:
        frame["prompt"] = frame["id"]
    return frame


def balanced(difference: NDArray[np.float64], slack: float = 0.1) -> NDArray[np.bool_]:
    """The length-balanced subset, as `length/accuracy_balanced` takes it (see docs/metrics.md), shape (B,)."""
    size, held = np.abs(difference), difference == 0
    longer, shorter = (
        deque(sorted(np.flatnonzero(side).tolist(), key=lambda i: float(size[i])))
        for side in (difference > 0, difference < 0)
    )
    while longer and shorter:
        a, b = float(size[longer[0]]), float(size[shorter[0]])
        if abs(a - b) <= max(1.0, slack * max(a, b)):
            held[longer.popleft()] = held[shorter.popleft()] = True
        else:
            (longer if a < b else shorter).popleft()
    return held


def guess(run: Run) -> bool:
    """Whether rewards are a score of their own, for runs whose provenance does not say: at the policy's own start
    as reference, rewards with a reference are all 0."""
    return abs(float(run.first.get("eval/rewards/chosen", 0.0))) > 1e-3 and not run.first.get("eval/displacement", 0)
