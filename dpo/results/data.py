"""The audit of a data set as a figure: lengths of both sides, their difference, and the shares that were limited."""

from __future__ import annotations

from typing import Any

from dpo.results.figures.curves import COLOURS


def audit_figure(audit: dict[str, Any]) -> Any:
    """Four panels from an audit.json (training part): lengths, paired difference, shares, surface tells; a Figure.

    Lengths are in tokens, EOS included; shares are of what their names say (see audit.json).
    """
    from matplotlib.figure import Figure

    part = audit["train"]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    lengths, difference, shares, tells = figure.subplots(2, 2).flat
    for side in ("chosen", "rejected"):
        bars(lengths, part[f"{side}_tokens"], COLOURS[side], side)
    lengths.set_title("answer length (tokens)", fontsize=10)
    lengths.legend(frameon=False, fontsize=8)
    bars(difference, part["difference_tokens"], COLOURS["margins"], None)
    low, high = part["longer_wins_interval"]
    difference.set_title(
        f"chosen - rejected (tokens); longer wins {part['longer_wins']:.0%} ({low:.0%} to {high:.0%})", fontsize=10
    )
    difference.axvline(0, color="grey", lw=0.8, ls=":")
    names = list(audit["shares"])
    shares.barh(names, [audit["shares"][name] for name in names], color="#56B4E9")
    shares.set_xlim(0, 1)
    shares.set_title("shares", fontsize=10)
    kinds = ["words", "format"]
    probes = [audit["probe"][kind] for kind in kinds]
    centres = [p["accuracy"] for p in probes]
    reach = [[abs(c - p["interval"][side]) for c, p in zip(centres, probes, strict=True)] for side in (0, 1)]
    tells.barh(kinds, centres, xerr=reach, color=COLOURS["accuracies"], height=0.5)
    tells.axvline(0.5, color="grey", lw=0.8, ls=":")
    tells.set_xlim(0, 1)
    tells.set_title(f"label found from the surface alone (n = {audit['probe']['n']})", fontsize=10)
    for axis in (lengths, difference, shares, tells):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.suptitle(f"training data: {part['pairs']} pairs", fontsize=10)
    return figure


def bars(axis: Any, distribution: dict[str, Any], colour: str, label: str | None) -> None:
    """A stored histogram as steps."""
    axis.stairs(distribution["histogram"], distribution["edges"], color=colour, fill=True, alpha=0.5, label=label)
