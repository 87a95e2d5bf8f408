"""Drawing, and nothing else: runs come in, figures go out, each with the numbers and the runs behind it."""

from dpo.results.figures.beta import beta_panels, frontier
from dpo.results.figures.calibration import implicit_explicit, reliability
from dpo.results.figures.compared import forest
from dpo.results.figures.curves import curves, run_curves, save_reward_curves
from dpo.results.figures.length import accuracy_by_length, audit, dose_response, margin_on_length

__all__ = [
    "accuracy_by_length",
    "audit",
    "beta_panels",
    "curves",
    "dose_response",
    "forest",
    "frontier",
    "implicit_explicit",
    "margin_on_length",
    "reliability",
    "run_curves",
    "save_reward_curves",
]
