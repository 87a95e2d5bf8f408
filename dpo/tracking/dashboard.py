"""The W&B workspace and report as code: the panels that a preference run is read by, the same for every project.

Built by wandb-workspaces, whose ids are random; here they are drawn from a fixed seed, so that two builds are equal.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpo.disk import make_folder
from dpo.errors import UsageError, check_project
from dpo.records import write_atomically
from dpo.run_folders import find_runs
from dpo.saved_config import read_saved
from dpo.tracking.push import connect
from dpo.tracking.wandb import client

NAME = "Preference runs"
VIEW = "nw-dpopreference-v"
STEP = "train/global_step"
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
CLASSES = ("chosen_longer", "equal", "chosen_shorter", "balanced")
INTRODUCTION = """Every key is defined in docs/metrics.md. Margins grow with beta, so arms of different beta are
compared on `eval/logratios/margins`, which is free of it. Every accuracy is to be read beside
`eval/length/longer_wins`, the accuracy of a rule that reads nothing but lengths. Bands are the standard error over the
seeds of one beta."""


@contextmanager
def fixed_ids() -> Iterator[None]:
    """The library draws its ids from `random`; inside, from a seed, and nobody else's stream moves."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


def sections() -> list[tuple[str, list[Any]]]:
    """(title, panels) of the workspace; the report has the same."""
    import wandb_workspaces.reports.v2 as wr

    def lines(title: str, *keys: str, **options: Any) -> Any:
        return wr.LinePlot(title=title, x=STEP, y=list(keys), **options)

    def by_beta(title: str, key: str) -> Any:
        bands = {"groupby": wr.Config("beta"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
        return lines(title, key, aggregate=True, **bands)

    def last(title: str, x: Any, y: str, **options: Any) -> Any:
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), **options)

    beta, rate = wr.Config("beta"), wr.Config("config.optim.lr")
    columns = [("beta", beta, True), ("learning rate", rate, True), ("seed", wr.Config("seed"), False)]
    ends = ("eval/logratios/margins", "eval/rewards/accuracies", "eval/kl", "eval/displacement")
    axes = [wr.ParallelCoordinatesPlotColumn(metric=m, display_name=name, log=log) for name, m, log in columns]
    axes += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key), display_name=key) for key in ends]
    return [
        ("The four rewards", [lines(key, f"train/{key}", f"eval/{key}") for key in REWARDS]),
        (
            "Beta",
            [
                by_beta("margin by beta", "eval/rewards/margins"),
                by_beta("log-ratio margin by beta", "eval/logratios/margins"),
                by_beta("accuracy by beta", "eval/rewards/accuracies"),
                last("last log-ratio margin against beta", beta, "eval/logratios/margins", log_x=True),
                last("margin against KL", wr.SummaryMetric("eval/kl"), "eval/logratios/margins", z=beta),
                last("displacement against beta", beta, "eval/displacement", log_x=True),
            ],
        ),
        (
            "Length",
            [
                lines("accuracy by length class", *(f"eval/length/accuracy_{c}" for c in CLASSES)),
                lines("the longer answer is the chosen one", "eval/length/longer_wins"),
                lines(
                    "slope of the margin on the length difference",
                    *("eval/length/slope", "eval/length/slope_low", "eval/length/slope_high"),
                ),
            ],
        ),
        (
            "What happened to the answers",
            [
                lines("change of log-probs since the start", "eval/logps/chosen_change", "eval/logps/rejected_change"),
                lines("share below the reference", "eval/displacement"),
                lines("length and ends of sampled answers", "eval/samples/length", "eval/samples/eos_rate"),
                wr.WeavePanelSummaryTable(table_name="samples", layout=wr.Layout(w=24, h=10)),
            ],
        ),
        (
            "Compare runs",
            [
                wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=10)),
                wr.ParallelCoordinatesPlot(title="settings and results", columns=axes, layout=wr.Layout(w=16, h=8)),
                wr.ParameterImportancePlot(with_respect_to="eval/logratios/margins", layout=wr.Layout(w=8, h=8)),
                wr.MarkdownPanel(markdown=INTRODUCTION, layout=wr.Layout(w=24, h=4)),
            ],
        ),
    ]


def placed(panels: list[Any]) -> list[Any]:
    """The panels side by side, in rows of 24 columns; where none is said, each would lie on the first."""
    x = y = height = 0
    for panel in panels:
        if x + panel.layout.w > 24:
            x, y, height = 0, y + height, 0
        panel.layout.x, panel.layout.y = x, y
        x, height = x + panel.layout.w, max(height, panel.layout.h)
    return panels


def workspace(project: str, entity: str) -> Any:
    """A wandb_workspaces Workspace; every section is open, runs are grouped by beta where a panel says so."""
    import wandb_workspaces.workspaces as ws

    with fixed_ids():
        made = ws.Workspace(
            entity=entity,
            project=project,
            name=NAME,
            sections=[ws.Section(name=title, panels=placed(panels), is_open=True) for title, panels in sections()],
            settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        )
    made._internal_name = VIEW
    made._internal_runset_id = "runs"
    return made


def report(project: str, entity: str) -> Any:
    """A wandb_workspaces Report: an introduction, then a heading and a grid of panels for each section."""
    import wandb_workspaces.reports.v2 as wr

    with fixed_ids():
        blocks: list[Any] = [wr.P(INTRODUCTION), wr.TableOfContents()]
        for title, panels in sections():
            runs = wr.Runset(name="runs")  # of no named project: those of the report's own
            blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=placed(panels))]
        text = "Four rewards, beta, length, displacement, answers."
        return wr.Report(project=project, entity=entity, title=NAME, description=text, blocks=blocks, width="fluid")


def files(project: str, entity: str) -> dict[str, dict[str, Any]]:
    """What is saved of both, as plain values: dashboard.json and report.json."""
    specs = {"dashboard.json": workspace(project, entity)._to_model().spec}
    with fixed_ids():
        specs["report.json"] = report(project, entity)._to_model().spec
    return {name: json.loads(spec.model_dump_json(by_alias=True, exclude_none=True)) for name, spec in specs.items()}


def build(folder: Path, project: str | None, entity: str | None, online: bool) -> list[str]:
    """Write both below `folder`/wandb, and online save them to the project, over their earlier selves; where they are.

    Without a project it is the one that the runs below `folder` name, or dpo.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory; `dpo train` makes one")
    named = {str(read_saved(run.config)["tracker"]["project"]) for run in find_runs(folder) if run.config.exists()}
    if project is None and len(named) > 1:
        raise UsageError(f"{folder}: its runs name {len(named)} projects ({', '.join(sorted(named))}); give --project")
    name = check_project("--project", (named.pop() if named else "dpo") if project is None else project)
    owner = connect(entity)[1] if online else entity or ""
    target = folder / "wandb"
    make_folder(target)
    for file, spec in files(name, owner).items():
        write_atomically(target / file, json.dumps(spec, indent=1, ensure_ascii=False) + "\n")
    written = [str(target / "report.json"), str(target / "dashboard.json")]
    return [*written, *save(name, owner)] if online else written


def save(project: str, entity: str) -> list[str]:
    """Both to the project, in place of what an earlier call saved there; their addresses."""
    from wandb_workspaces.workspaces import internal

    os.environ["WANDB_SILENT"] = "true"
    space, page = workspace(project, entity), report(project, entity)
    try:
        space._internal_id = internal.get_view_dict(entity, project, internal._internal_name_to_url_query_str(VIEW))[
            "id"
        ]
    except ValueError:  # not there yet
        space._internal_id = ""
    try:
        earlier = [kept for kept in client().Api().reports(f"{entity}/{project}") if kept.display_name == NAME]
    except ValueError:
        earlier = []
    page.id = earlier[0].id if earlier else ""
    with fixed_ids():
        space.save()
    with fixed_ids():
        page.save()
    return [page.url, space.url]
