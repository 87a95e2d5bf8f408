"""Findings as they stand on a page: sentences with the runs behind each, and the two lists of what DPO did or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo.results import findings
from dpo.results.cells import plain
from dpo.results.findings import Findings
from dpo.results.foreign import in_html
from dpo.results.frames import Run, Runs

FLAGS = {
    "displacement": "more than half of the evaluation pairs have a chosen log-probability below the reference's",
    "reward_collapse": "both mean rewards fell by more than 1: the policy has left both answers",
    "degeneration": "sampled answers end, parse or vary less than at the start by at least 0.2",
}
"""What each flag of summary.json says; docs/metrics.md has the rules."""


@dataclass(frozen=True)
class Sentences:
    """Sentences under a title, each with the ids of the runs behind it."""

    title: str
    items: tuple[tuple[str, tuple[str, ...]], ...]

    def _repr_html_(self) -> str:
        listed = "".join(f"<li{of(runs)}>{in_html(text)}</li>" for text, runs in self.items)
        head = f"<h4>{in_html(self.title)}</h4>" if self.title else ""
        return f'<div class="sentences">{head}<ul>{listed}</ul></div>'

    def _repr_markdown_(self) -> str:
        head = [f"**{plain(self.title)}**", ""] if self.title else []
        return "\n".join([*head, *(f"- {plain(text)} ({', '.join(runs)})" for text, runs in self.items)]) + "\n"


@dataclass(frozen=True)
class TwoLists:
    """What DPO did and what it did not do, for each arm or for one run."""

    found: tuple[Findings, ...]

    def _repr_html_(self) -> str:
        return "".join(map(self.one, self.found))

    def one(self, found: Findings) -> str:
        """The lists of one arm, side by side where there is room."""
        sides = [("What DPO did", found.did), ("What it did not do", found.did_not)]
        lists = [Sentences(head, tuple((f.sentence, f.runs) for f in items))._repr_html_() for head, items in sides]
        remarks = "".join(f'<p class="note">{in_html(text)}</p>' for text in found.remarks)
        title = f"<h3>{in_html(found.title)}</h3>"
        return f'<section class="findings">{title}<div class="lists">{"".join(lists)}</div>{remarks}</section>'

    def _repr_markdown_(self) -> str:
        return "\n".join(found._repr_markdown_() for found in self.found)


def of(runs: Sequence[str]) -> str:
    """The attribute that names the runs behind something."""
    return f' data-runs="{in_html(" ".join(runs))}"' if runs else ""


def two_lists(runs: Runs | Run) -> TwoLists:
    """What DPO did and did not do: of one finished run, or of each arm of several."""
    if isinstance(runs, Run):
        return TwoLists((findings.findings(runs),))
    return TwoLists(tuple(findings.findings_by_arm(runs)))


def length_bias(runs: Runs) -> Sentences:
    """Whether a preference for length is shown, and its size: a sentence for each dose-response and each arm."""
    return Sentences("", tuple((v.text, v.runs) for v in findings.length_bias_verdict(runs)))


def flags(run: Run) -> Sentences:
    """The flags of a run, raised or not, and what each says."""
    raised: dict[str, Any] = run.summary.get("flags", {})
    items = [f"{'raised' if up else 'not raised'}: {name} ({FLAGS.get(name, '')})" for name, up in raised.items()]
    return Sentences("Flags", tuple((text, (run.id,)) for text in items or ["none recorded"]))
