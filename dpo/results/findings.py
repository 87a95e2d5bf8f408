"""What DPO did and what it did not do, in sentences that are chosen by their intervals and nothing else.

A claim stands under "did" only where its interval leaves out no change; everything else stands under "did not", with
its figures. Each list has at least three items: a list with fewer gets measured facts about the training itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo.errors import UsageError
from dpo.results.arms import Arm, title
from dpo.results.cells import plain
from dpo.results.claims import Claim, claims
from dpo.results.estimate import Estimate
from dpo.results.frames import Run, Runs
from dpo.results.labels import DEFAULT, label
from dpo.results.length_bias import Verdict as Verdict
from dpo.results.length_bias import length_bias_verdict as length_bias_verdict
from dpo.results.tables import differences, missing_seeds

LEAST = 3
HELD_BACK = frozenset({"displacement"})
"""Claims whose lower side is something that did not happen."""


@dataclass(frozen=True)
class Finding:
    """A sentence, the estimate it says, and the ids of the runs behind it; `did` says in which list it stands."""

    name: str
    sentence: str
    did: bool
    estimate: Estimate | None
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """Two lists for one run or for the seeds of an arm, and what a reader must know beside them."""

    title: str
    did: tuple[Finding, ...]
    did_not: tuple[Finding, ...]
    remarks: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        lines = [f"### {plain(self.title)}"]
        for head, items in (("What DPO did", self.did), ("What it did not do", self.did_not)):
            lines += ["", f"**{head}**", "", *(f"- {plain(item.sentence)}" for item in items)]
        return "\n".join([*lines, *(f"\n{plain(remark)}" for remark in self.remarks)]) + "\n"


def findings(runs: Run | Arm | Sequence[Run]) -> Findings:
    """The two lists for a finished run, or for finished runs that differ in the seed alone.

    Raises UsageError for runs of several configurations, or for one without evaluations of a policy.
    """
    members = [runs] if isinstance(runs, Run) else list(runs.runs if isinstance(runs, Arm) else runs)
    check(members)
    of = tuple(run.id for run in members)
    found = [finding(claim, of) for claim in claims(members)]
    did, did_not = ([f for f in found if f.did == side] for side in (True, False))
    did += [Finding("work", text, True, None, of) for text in work(members)][: max(0, LEAST - len(did))]
    did_not += [Finding("limit", text, False, None, of) for text in limits(members)][: max(0, LEAST - len(did_not))]
    name = members[0].name if len(members) == 1 else f"{members[0].name.rsplit('-seed', 1)[0]}, {len(members)} seeds"
    return Findings(name, tuple(did), tuple(did_not), tuple(remarks(members, found)))


def check(runs: Sequence[Run]) -> None:
    """Raise UsageError unless these are finished policies of one configuration."""
    if not runs:
        raise UsageError("no finished run to say anything about")
    if len({run.group for run in runs}) > 1:
        raise UsageError("findings are of one configuration and its seeds; give the runs of one arm (Runs.arms)")
    for run in runs:
        if run.mixed:
            raise UsageError(f"{run.path}: {run.mixed}; nothing can be said of what this run did")
        if not run.complete or run.kind != "policy":
            raise UsageError(
                f"{run.path}: is {run.kind}, {run.state}; findings need a finished policy with an evaluation"
            )


def finding(claim: Claim, of: tuple[str, ...]) -> Finding:
    """A claim in its list."""
    did = claim.direction != 0 and not (claim.name in HELD_BACK and claim.direction < 0)
    return Finding(claim.name, claim.sentence, did, claim.estimate, of)


def work(runs: Sequence[Run]) -> Iterator[str]:
    """Measured facts of the training itself."""
    p, rate, seeds = runs[0].provenance, runs[0].flat.get("optim.lr"), ", ".join(str(run.seed) for run in runs)
    yield f"It took {runs[0].last['step']} optimizer steps of {p.get('global_batch', '?')} pairs (seed {seeds})."
    yield f"It trained {p.get('trainable_parameters', '?')} parameters at a learning rate of {rate}."
    pairs = [len(run.pairs()) for run in runs]
    yield f"It was measured on {pairs[0]} evaluation pairs at {len(runs[0].evaluations())} steps of its training."


def limits(runs: Sequence[Run]) -> Iterator[str]:
    """Measured facts about what these runs cannot show."""
    pairs = len(runs[0].pairs())
    yield f"It was not measured on other data: all figures are from {pairs} evaluation pairs of its own data set."
    yield f"It was not repeated with other seeds than {', '.join(str(run.seed) for run in runs)}: {len(runs)} in all."
    answers = runs[0].flat.get("evaluate.samples")
    yield f"It was not read by people: {answers} sampled answers of each evaluation were counted, not judged."


def remarks(runs: Sequence[Run], found: Sequence[Finding]) -> Iterator[str]:
    """The flags, the paragraph on displacement where it is due, and how many seeds there are."""
    raised = sorted({name for run in runs for name, up in run.summary.get("flags", {}).items() if up})
    if raised:
        yield f"Flags raised: {', '.join(raised)} (docs/metrics.md says what each means)."
    if (paragraph := displacement_paragraph(runs, found)) and ("displacement" in raised or fell(found)):
        yield paragraph
    if len(runs) == 1:
        if (kl := runs[0].last.get("eval/kl")) is not None:
            n = int(runs[0].last["eval/kl_n"])
            yield f"KL to the reference: {kl:.3f} nats per answer (n={n} samples of one run, no interval)."
        yield "One run: its intervals are over its pairs and answers; another seed may differ by more."


def fell(found: Sequence[Finding]) -> bool:
    """Whether the chosen answers' log-probability fell by more than chance."""
    e = next((f.estimate for f in found if f.name == "chosen"), None)
    return bool(e and e.interval and e.interval[1] < 0)


def displacement_paragraph(runs: Sequence[Run], found: Sequence[Finding] | None = None) -> str:
    """Why the chosen log-probability can fall while the margin grows, with these runs' figures; "" without the rows."""
    found = [finding(c, ()) for c in claims(runs)] if found is None else found
    estimates = {f.name: f.estimate for f in found}
    chosen, rejected, share = (estimates.get(name) for name in ("chosen", "rejected", "displacement"))
    if not (chosen and rejected and share):
        return ""
    return (
        f"The chosen answers' log-probability changed by {chosen.text(signed=True)} nats, the rejected answers' by "
        f"{rejected.text(signed=True)} nats; a share of {share.text()} of the chosen answers ended below their "
        f"reference (n={share.n} pairs). The loss of DPO depends on the difference of the two log-ratios alone, so it "
        "is lowered as well by making the chosen answer less likely and the rejected one less likely still; what both "
        "lose goes to answers that are in neither list. This is likelihood displacement (Razin et al. 2024, "
        "arXiv:2410.08847). A smaller learning rate, fewer steps, or a term that holds the chosen side up "
        "(loss.sft_weight, loss=dpop) work against it."
    )


def findings_by_arm(runs: Runs) -> list[Findings]:
    """`findings` for every arm of the finished runs, titled by its settings."""
    made = []
    for arm in runs.done.arms():
        f = findings(arm)
        made.append(Findings(f"{arm.label} ({plural(len(arm.runs), 'seed')})", f.did, f.did_not, f.remarks))
    return made


def plural(count: int, word: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def compared(runs: Runs, key: str, baseline: object = None, metrics: Sequence[str] = DEFAULT) -> list[str]:
    """A sentence for each arm and metric: its difference from the baseline, or that none is shown."""
    table = differences(runs, key, baseline, metrics)
    first = len(table.columns) - len(metrics)
    sentences = []
    for row in table.rows:
        arm = ", ".join(f"{c} {cell.text}" for c, cell in zip(table.columns[: first - 1], row, strict=False))
        for column, cell in zip(table.columns[first:], row[first:], strict=True):
            e = cell.content
            if isinstance(e, Estimate):
                words = " differs by" if e.shown else f": {e.verdict},"
                sentences.append(f"{arm}: {column}{words} {e.text(signed=True)} ({e.footing}).")
    return sentences


def warnings(runs: Runs) -> list[str]:
    """What a reader of a sweep must be told before its tables."""
    arms, keys = runs.done.arms(), runs.done.axes()
    said = []
    if "beta.value" in keys and len({repr(run.flat.get("optim.lr")) for run in runs.done}) == 1:
        rate = next(iter(runs.done)).flat.get("optim.lr")
        said.append(
            f"beta was swept at one learning rate ({rate:g}): the rate that suits one beta need not suit another, so a "
            "difference between these arms may be one of rates; sweeps/beta_x_lr asks about both."
        )
    if "beta.value" in keys:
        said.append(
            "Reward margins are beta times the log-ratio difference and grow with beta by definition; arms are "
            f"compared on {label('logratios/margins')}, which is measured and not the margin divided by beta."
        )
    few = [arm.label for arm in arms if len(arm.runs) < 3]
    if few:
        said.append(f"Fewer than three seeds in {'; '.join(few)}: intervals over seeds are wide or missing.")
    said += missing_seeds(arms)
    if runs.unfinished.all or runs.pending:
        said.append(f"Not finished, counted nowhere: {plural(len(runs.unfinished) + len(runs.pending), 'run')}.")
    full = [arm.label for arm in arms if all(run.last.get("eval/rewards/accuracies") == 1 for run in arm.runs)]
    if len(full) == len(arms) > 1:
        said.append("Accuracy is 1 in every arm and ranks none of them.")
    return [*said, *runs.notes]


def arm_titles(runs: Runs) -> str:
    """The axes of a folder in words."""
    return ", ".join(title(key) for key in runs.done.axes()) or "one configuration"
