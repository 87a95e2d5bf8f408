"""Figures: what they show is what was logged, the same bytes each time, nothing of the data taken as markup."""

import base64
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpo.console import spark
from dpo.records import RunDir
from dpo.results import figures, frames
from dpo.results.figures.curves import TITLES, reward_curves
from dpo.results.figures.figure import MIME, SERIES, Panel, build, looks
from tests.results.toy_runs import MEAN, write_run

SWEEP = [(beta, seed) for beta in (0.1, 0.5) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> frames.Runs:
    """Two betas with three seeds each."""
    root = tmp_path_factory.mktemp("swept")
    for beta, seed in SWEEP:
        write_run(root, seed, beta, slope=0.05)
    return frames.load(root)


def test_the_curves_show_exactly_the_logged_points(finished: RunDir) -> None:
    """Four panels, each a training line and evaluation dots read from metrics.jsonl."""
    rows = list(finished.rows(finished.metrics))
    for axis, title in zip(reward_curves(rows, "x").axes, TITLES.values(), strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        for kind in ("train", "eval"):
            drawn = list(zip(lines[kind].get_xdata(), lines[kind].get_ydata(), strict=True))
            assert drawn == [(row["step"], row[f"{kind}/{title}"]) for row in rows if row["kind"] == kind]


def test_the_same_rows_give_the_same_picture_bytes(finished: RunDir, tmp_path: Path) -> None:
    """No date, no random ids."""
    copy = RunDir(tmp_path / finished.path.name)
    shutil.copytree(finished.path, copy.path)
    figures.save_reward_curves(copy)
    first = copy.curves.read_bytes()
    figures.save_reward_curves(copy)
    assert copy.curves.read_bytes() == first and first.startswith(b"<?xml")


@pytest.mark.parametrize(
    "draw",
    [
        figures.beta_panels,
        figures.frontier,
        figures.curves,
        figures.accuracy_by_length,
        figures.margin_on_length,
        figures.reliability,
        figures.forest,
    ],
)
def test_every_figure_is_the_same_twice_and_names_its_runs(draw, swept: frames.Runs) -> None:
    """SVG, PNG, page and data byte for byte; ids of all runs; a caption that says how the intervals were made."""
    one, two = draw(swept), draw(swept)
    assert (one.svg, one.png, one._repr_html_(), one.csv) == (two.svg, two.png, two._repr_html_(), two.csv)
    assert sorted(one.runs) == sorted(run.id for run in swept)
    assert all(f"#run-{run.id}" in one._repr_html_() for run in swept) and "95 %" in one.caption
    assert len(one.data) and one.png.startswith(b"\x89PNG")


def test_matplotlib_settings_of_the_machine_change_nothing(swept: frames.Runs) -> None:
    """A matplotlibrc with other fonts and colours gives the same bytes."""
    import matplotlib

    kept = figures.frontier(swept).svg
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        assert figures.frontier(swept).svg == kept


def test_the_link_of_a_figure_holds_its_data(swept: frames.Runs) -> None:
    """The data: URI decodes to the CSV, and that to the frame."""
    figure = figures.beta_panels(swept)
    found = re.search(r'download="beta.csv" href="data:text/csv;base64,([^"]+)"', figure._repr_html_())
    assert found and base64.b64decode(found[1]).decode() == figure.csv
    assert figure._repr_mimebundle_()[MIME]["csv"] == figure.csv


def test_points_over_beta_are_the_last_evaluations(swept: frames.Runs) -> None:
    """Each run's value as logged, and the mean of each arm."""
    data = figures.beta_panels(swept).data
    for metric in ("rewards/margins", "logratios/margins", "kl", "displacement"):
        part = data[data["metric"] == metric]
        for run in swept:
            assert list(part[part["run"] == run.id]["value"]) == [run.last[f"eval/{metric}"]]
        for beta in (0.1, 0.5):
            mean = part[(part["run"] == "") & (part["beta.value"] == beta)]
            logged = [run.last[f"eval/{metric}"] for run in swept if run.config["beta"]["value"] == beta]
            assert mean["value"].iloc[0] == pytest.approx(sum(logged) / 3)
            assert mean["n"].iloc[0] == (3 if metric == "kl" else 40)


def test_rewards_of_losses_of_different_scale_are_not_drawn(tmp_path: Path) -> None:
    """Sigmoid beside IPO: curves and frontier show d and accuracy, and say why there is no reward."""
    for seed in (0, 1):
        write_run(tmp_path, seed)
        write_run(tmp_path, seed, facts=MEAN, loss___target_="dpo.losses.ipo.Ipo")
    runs = frames.load(tmp_path)
    for figure in (figures.curves(runs), figures.frontier(runs), figures.forest(runs)):
        assert not set(figure.data["metric"]) & set(list(TITLES.values())[:3])
        assert "logratios/margins" in set(figure.data["metric"])
    assert "different scale" in figures.curves(runs).caption


def test_the_forest_says_what_the_table_of_differences_says(swept: frames.Runs) -> None:
    """One family of comparisons: no arm is filled in the figure and "no difference shown" in the table."""
    from dpo.results.figures import compared
    from dpo.results.labels import DEFAULT

    (cells,) = compared.table(swept).rows
    data = figures.forest(swept).data.set_index("metric")
    assert list(data.index) == list(DEFAULT)
    for metric, cell in zip(DEFAULT, cells[-len(DEFAULT) :], strict=True):
        point = data.loc[metric]
        assert (point["value"], point["shown"]) == (cell.content.value, cell.content.shown)
        assert bool(cell.content.verdict) == (not point["shown"])


def test_a_figure_that_does_not_apply_is_none(swept: frames.Runs) -> None:
    """No dose was swept, no reward model compared, no histogram recorded: nothing is drawn."""
    assert figures.dose_response(swept) is None and figures.implicit_explicit(swept) is None
    assert figures.audit(swept.all[0]) is None


def test_what_came_from_data_is_text_in_a_figure() -> None:
    """A label with markup and a formula is shown as it stands, in SVG, page and Markdown."""
    nasty = "<script>alert(1)</script> $x$ & |"
    panel = Panel(nasty, lambda axis: axis.set_xlabel(nasty))
    figure = build("x", nasty, nasty, [panel], pd.DataFrame({"a": [1]}), ["0"], looks([nasty]))
    for text in (figure.svg, figure._repr_html_(), figure._repr_markdown_()):
        assert "<script" not in text and "&lt;script&gt;" in text
    assert "$x$" in figure.svg and "\\|" in figure._repr_markdown_()


def test_ids_of_figures_on_one_page_do_not_collide(swept: frames.Runs) -> None:
    """Clip paths and markers are referred to within each panel; no id is left that nothing refers to."""
    page = figures.curves(swept)._repr_html_() + figures.frontier(swept)._repr_html_()
    found = re.findall(r' id="([^"]+)"', page)
    used = set(re.findall(r'(?:xlink:href="|url\()#([\w.-]+)', page))
    assert len(found) == len(set(found)) and used <= set(found)


def test_a_page_recolours_ink_and_series() -> None:
    """Every colour on a page is a variable or the text's own, so that dark and light both work."""
    panel = Panel("x", lambda axis: [axis.plot([0, 1], [0, i], color=c) for i, c in enumerate(SERIES)])
    figure = build("x", "t", "c", [panel], pd.DataFrame({"a": [1]}), ["0"])
    bare = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-fA-F]{6}\)", "", figure.panels[0])
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", bare) and "currentColor" in bare


def test_a_spark_runs_from_the_lowest_to_the_highest_block() -> None:
    """Also for a constant curve and for one longer than its width."""
    assert spark([0.0, 1.0]) == "▁█"
    assert spark([2.0, 2.0]) == "▁▁"
    assert len(spark([float(i) for i in range(1000)], width=40)) == 40


def test_points_over_a_dose_are_the_last_evaluations(tmp_path: Path) -> None:
    """Sample length and slope of each run, by its dose."""
    for dose in (0.0, 0.5, 1.0):
        for seed in (0, 1):
            bias = {"perturb___target_": "dpo.data.perturb.LengthBias", "perturb__dose": dose}
            write_run(tmp_path, seed, slope=dose / 5, lengths=(12, 12 + 20 * dose), **bias)
    runs = frames.load(tmp_path)
    figure = figures.dose_response(runs)
    assert figure is not None
    for run in runs:
        mine = figure.data[figure.data["run"] == run.id].set_index("metric")
        assert mine.loc["samples/length", "value"] == run.last["eval/samples/length"]
        assert mine.loc["length/slope", "value"] == run.last["eval/length/slope"]
        assert set(mine["perturb.dose"]) == {run.flat["perturb.dose"]}


def test_implicit_and_explicit_margins_are_those_of_the_pair_rows(tmp_path: Path) -> None:
    """A reward model that was compared with a policy: each pair's two margins, both runs named."""
    policy = write_run(tmp_path, 0)
    reward = write_run(
        tmp_path, 0, gain=1.0, name="reward-seed0-0123abcd", provenance={"kind": "reward"}, optim__lr=1e-3
    )
    assert figures.implicit_explicit(frames.load(tmp_path)) is None
    reward.write(f"against-{policy.path.name}", {"agreement": 1.0})
    figure = figures.implicit_explicit(frames.load(tmp_path))
    assert figure is not None and set(figure.runs) == {policy.path.name[-8:], "0123abcd"}
    for side, run in (("implicit", policy), ("explicit", reward)):
        rows = run.read_pairs(4)
        margins = [c - r for c, r in zip(rows["chosen_reward"], rows["rejected_reward"], strict=True)]
        assert list(figure.data[f"margin_{side}"]) == pytest.approx(margins)


def test_the_audit_figure_holds_the_histograms_of_the_audit(finished: RunDir) -> None:
    """Each bin of lengths as stored, and each share."""
    figure = figures.audit(frames.load_run(finished.path))
    assert figure is not None
    stored = finished.read("audit")
    data = figure.data.set_index("what")["value"]
    for side in ("chosen", "rejected", "difference"):
        assert list(data.loc[f"{side} tokens"]) == stored["train"][f"{side}_tokens"]["histogram"]
    assert all(data.loc[f"share {name}"] == value for name, value in stored["shares"].items())
