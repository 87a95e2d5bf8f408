"""The audit's figure shows the audit's numbers."""

import pytest

from dpo.results.data import audit_figure


def test_bars_and_steps_hold_the_numbers_of_the_audit(finished) -> None:
    """Histograms as stored, a bar for each share at its value, both probes with their intervals."""
    audit = finished.read("audit")
    lengths, difference, shares, tells = audit_figure(audit).axes
    heights = [list(patch.get_data().values) for patch in (*lengths.patches, *difference.patches)]
    assert heights == [audit["train"][f"{s}_tokens"]["histogram"] for s in ("chosen", "rejected", "difference")]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx(list(audit["shares"].values()))
    assert [bar.get_width() for bar in tells.patches] == [audit["probe"][k]["accuracy"] for k in ("words", "format")]


def test_the_titles_name_what_was_counted(finished) -> None:
    """Pairs, the longer-wins share with its interval, n of the probe."""
    figure = audit_figure(finished.read("audit"))
    assert "12 pairs" in figure.get_suptitle()
    assert "longer wins 50% (25% to 75%)" in figure.axes[1].get_title() and "n = 12" in figure.axes[3].get_title()
