"""Drawing, and nothing else: numbers come in, a figure goes out. Colours are Okabe and Ito's colour-blind safe set."""

from __future__ import annotations

from typing import Any

from dpo.records import RunDir

COLOURS = {"chosen": "#0072B2", "rejected": "#D55E00", "margins": "#009E73", "accuracies": "#CC79A7"}
TITLES = {
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
    "margins": "rewards/margins",
    "accuracies": "rewards/accuracies",
}


def reward_curves(run: RunDir) -> Any:
    """The four reward metrics over steps: training as a line, evaluation as dots; a matplotlib Figure.

    Rewards are beta times summed log-ratios in nats; accuracy is a share.
    """
    from matplotlib.figure import Figure

    rows = list(run.rows(run.metrics))
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axis, (name, colour) in zip(figure.subplots(2, 2).flat, COLOURS.items(), strict=True):
        for kind, style in (("train", {"lw": 1.2, "alpha": 0.7}), ("eval", {"lw": 0, "marker": "o", "ms": 5})):
            key = f"{kind}/{TITLES[name]}"
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot([p[0] for p in points], [p[1] for p in points], color=colour, label=kind, **style)
        axis.set_title(TITLES[name], fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if name == "accuracies":
            axis.set_ylim(-0.05, 1.05)
            axis.axhline(0.5, color="grey", lw=0.8, ls=":")
        else:
            axis.axhline(0, color="grey", lw=0.8, ls=":")
        axis.legend(frameon=False, fontsize=8)
        axis.set_xlabel("optimizer step", fontsize=8)
    figure.suptitle(run.path.name, fontsize=10)
    return figure


def save_reward_curves(run: RunDir) -> None:
    """Write the run's curves.svg (the same bytes for the same rows)."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "dpo", "svg.fonttype": "none"}):
        reward_curves(run).savefig(run.curves, metadata={"Date": None})
