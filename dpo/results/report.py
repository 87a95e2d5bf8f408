"""`dpo report`: the notebooks that fit some runs, executed and put on one page, with its parts as files beside it.

The same runs give the same bytes: no dates, no paths of this machine, no order but that of the runs.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo.errors import UsageError
from dpo.progress import bar, say
from dpo.results import findings, fits, frames, notebooks, page, tables, written
from dpo.results.comparable import comparable, comparable_groups
from dpo.results.figures.figure import plain
from dpo.results.foreign import in_html
from dpo.results.frames import Run, Runs
from dpo.results.page import Part, heading
from dpo.results.reading import read_file

FOOT = "Made by dpo report from the files of these runs alone; the same runs give the same bytes."


def report(directory: Path, out: Path | None = None) -> Path:
    """Write the page (by default DIR/report.html) and the folder of the same name beside it; the page's path."""
    page_path, folder = written.places(directory, out)
    files = build(directory)
    for path in written.write(page_path, folder, files, html.escape(FOOT).encode()):
        say(f"note: {path} is left of an older report and was changed since, so it stays")
    return page_path


def stale(directory: Path, out: Path | None = None) -> list[str]:
    """Names of the files of a report that are missing or are not what these runs give now."""
    page_path, folder = written.places(directory, out)
    if not page_path.is_file():
        return [page_path.name]
    files = build(directory)
    paths = {name: page_path if name == "report.html" else folder / name for name in files}
    return [name for name, path in paths.items() if not path.is_file() or path.read_bytes() != files[name]]


def build(directory: Path) -> dict[str, bytes]:
    """Every file of the report by name: report.html, report.md, and figures as .svg, .png, .csv.

    Raises UsageError for a folder without a finished run, and for runs that do not belong in one table.
    """
    runs = frames.load(directory)
    check(runs)
    parts = [*body(runs), *end(runs)]
    lead = front(runs)
    files: dict[str, bytes] = {}
    for part in parts:
        assert not files.keys() & part.files.keys(), "two figures of one name"
        files |= part.files
    title = f"{title_of(runs)}: DPO report"
    return {
        "report.html": page.to_html(title, lead, parts, FOOT).encode(),
        "report.md": page.to_markdown(lead, parts, FOOT).encode(),
        **files,
    }


def check(runs: Runs) -> None:
    """Raise UsageError where nothing is finished, or where runs were not measured alike."""
    if not len(runs.done):
        states = ", ".join(f"{run.name} {run.state}" for run in list(runs)[:5])
        raise UsageError(f"{runs.path}: no finished policy run to report on ({states})")
    reasons = comparable(runs.done)
    if reasons:
        groups = comparable_groups(runs.done)
        places = "; ".join(f"{len(g)} run{'s' * (len(g) != 1)} in {common(g, runs.path)}" for g in groups)
        raise UsageError(
            f"{runs.path}: these runs do not belong in one report: {'. '.join(reasons)}. "
            f"Give a folder of runs that were measured alike ({places})"
        )


def common(runs: Sequence[Run], root: Path) -> str:
    """The folder that holds these runs, below `root`."""
    folder = Path(os.path.commonpath([run.path for run in runs]))
    return str(folder.relative_to(root)) if folder != root else ", ".join(run.name for run in runs[:3])


def body(runs: Runs) -> list[Part]:
    """What the notebooks that fit show, in their order."""
    chosen = [notebook for notebook in notebooks.notebooks() if fits.FITS[notebook.fits](runs)]
    if len(runs.done) == 1:  # its card comes first
        chosen.sort(key=lambda notebook: "run" not in notebooks.parameters(notebook))
    one = str(runs.done.all[0].path.resolve())
    given = {"directory": str(runs.path.resolve()), "run": one}
    work = [(n, {name: given[name] for name in notebooks.parameters(n)}) for n in chosen]
    with bar(None, "notebooks", "notebook", total=len(work)) as progress:
        ran = notebooks.execute(work, lambda name: progress.update())
    parts = [part for (n, _), content in zip(work, ran, strict=True) for part in page.of_notebook(content, n.name)]
    return page.each_figure_once(parts)


def end(runs: Runs) -> Iterator[Part]:
    """The runs: all, those that failed or have not ended, and where the numbers come from."""
    yield heading(2, "Runs", "runs")
    table = page.shown(tables.runs_table(runs))
    named = re.sub(r'<tr>(?=<td [^>]*data-runs="([0-9a-f]+)")', r'<tr id="run-\1">', table.html)
    yield Part(named, table.markdown)
    yield heading(2, "Failed and unfinished runs", "failed")
    yield page.shown(tables.failed_table(runs))
    yield heading(2, "Provenance", "provenance")
    yield page.shown(tables.provenance_table(runs))


def title_of(runs: Runs) -> str:
    """The folder's name; of one run, the run's."""
    return runs.all[0].name if len(runs) == 1 else runs.path.resolve().name


def questions(runs: Runs) -> list[str]:
    """The question of each sweep at or below the folder, without its budget."""
    found = [read_file(path, []) or {} for path in sorted(runs.path.rglob("sweep.json"))]
    return [q for sweep in found if (q := str(sweep.get("question", "")).split(" Budget:")[0].strip())]


def front(runs: Runs) -> Part:
    """Title, question, what was compared, and what a reader must know first."""
    arms, done = runs.done.arms(), runs.done
    seeds = sorted({str(run.seed) for run in done})
    pairs = len(done.all[0].pairs())
    states = [run.state for run in runs] + ["pending"] * len(runs.pending)
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    facts = [
        f"{len(states)} run{'s' * (len(states) != 1)}: {counts}",
        f"{len(arms)} arm{'s' * (len(arms) != 1)}",
        f"seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}",
        f"{pairs} held-out pairs",
    ]
    asked, said = questions(runs), notices(runs)
    listed = "".join(f"<li>{in_html(text)}</li>" for text in said)
    page_form = (
        f"<h1>{in_html(title_of(runs))}</h1>\n"
        + "".join(f'<p class="question">{in_html(text)}</p>\n' for text in asked)
        + f'<p class="facts">{in_html(" · ".join(facts))}</p>\n'
        + (f'<div class="notices" role="note"><ul>{listed}</ul></div>' if said else "")
    )
    text_form = "\n\n".join([f"# {plain(title_of(runs))}", *map(plain, asked), plain(" · ".join(facts))]) + "\n"
    return Part(page_form, text_form + "".join(f"\n- {plain(text)}" for text in said) + "\n")


def notices(runs: Runs) -> list[str]:
    """What limits every number of the page, in words."""
    if len(runs.done) > 1:
        return findings.warnings(runs)
    one = "One finished run: intervals are over pairs and samples, and say nothing of what another seed would give."
    return [one, *runs.notes]


__all__ = ["build", "report", "stale"]
