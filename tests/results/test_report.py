"""`dpo report`: the same bytes, stale or not, what is refused, and every number recomputed from the runs' files."""

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.results import notebooks, stats
from dpo.results import report as maker
from tests.results.toy_runs import MEAN, write_run

ESTIMATE = re.compile(r"^(\S+) \[(\S+), (\S+)\] n=(\d+)")


def tables(page: Path) -> dict[str, list[dict[str, str]]]:
    """Text of every table by its data-name: a dict per row, by column."""
    found = {}
    for name, text in re.findall(r'<table class="t-table" data-name="([^"]+)">(.*?)</table>', page.read_text(), re.S):
        columns = [strip(cell) for cell in re.findall(r"<th [^>]*>(.*?)</th>", text, re.S)]
        rows = [
            re.findall(r"<td [^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
        ]
        found[name] = [dict(zip(columns, map(strip, row), strict=True)) for row in rows if row]
    return found


def strip(text: str) -> str:
    """Text without tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def check(text: str, value: float, low: float, high: float) -> None:
    """A printed estimate against its recomputed numbers, to half of its last digit."""
    found = ESTIMATE.match(text)
    assert found, text
    for printed, exact in zip(found.groups()[:3], (value, low, high), strict=True):
        digits = len(printed.partition(".")[2])
        assert abs(float(printed) - exact) <= 0.5001 * 10**-digits, (text, value, low, high)


class Raw:
    """A run's files, read by nothing of dpo.results."""

    def __init__(self, path: Path) -> None:
        self.id = path.name[-8:]
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        self.rows = rows
        self.last = [row for row in rows if row["kind"] == "eval"][-1]
        self.pairs = {k: np.array(v) for k, v in RunDir(path).read_pairs(self.last["step"]).items()}
        self.config = (path / "run.yaml").read_text()
        self.beta = float(re.search(r"beta:\n  _target_: [\w.]+\n  value: (\S+)", self.config)[1])
        self.seed = int(re.search(r"^seed: (\d+)", self.config, re.M)[1])

    @property
    def win(self) -> np.ndarray:
        """1, 0, or one half for a tie, by the definition in docs/metrics.md."""
        p = self.pairs
        d = (p["chosen_logp"] - p["chosen_ref_logp"]) - (p["rejected_logp"] - p["rejected_ref_logp"])
        size = sum(np.abs(p[n]) for n in ("chosen_logp", "chosen_ref_logp", "rejected_logp", "rejected_ref_logp"))
        return np.where(np.abs(d) <= self.last["eval/tie"] * size, 0.5, (d > 0).astype(float))

    @property
    def margin(self) -> np.ndarray:
        """Chosen minus rejected reward of each pair."""
        return self.pairs["chosen_reward"] - self.pairs["rejected_reward"]

    @property
    def longer(self) -> np.ndarray:
        """Chosen minus rejected tokens of each pair."""
        return self.pairs["chosen_tokens"] - self.pairs["rejected_tokens"]


@pytest.fixture(scope="module")
def raw(small_sweep: Path) -> dict[float, list[Raw]]:
    """The finished runs by beta."""
    done = [p.parent for p in sorted(small_sweep.glob("*/status.json")) if json.loads(p.read_text())["state"] == "done"]
    runs = [Raw(path) for path in done]
    return {beta: [run for run in runs if run.beta == beta] for beta in (0.1, 0.5)}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval."""
    x = np.array(values)
    half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def over_arm(runs: list[Raw], key: str) -> tuple[float, float, float]:
    """Student's interval over seeds; where every seed has the same share, Wilson's over pairs, which are 15."""
    values = [run.last[key] for run in runs]
    if values[0] != values[1]:
        return interval(values)
    assert key in ("eval/rewards/accuracies", "eval/displacement"), key
    share = stats.wilson(values[0] * 15, 15)
    return share.value, share.low, share.high


METRICS = {
    "log-ratio difference d (nats)": "eval/logratios/margins",
    "reward margin (beta x nats)": "eval/rewards/margins",
    "accuracy": "eval/rewards/accuracies",
    "displaced pairs (share)": "eval/displacement",
    "change of chosen log-prob (nats)": "eval/logps/chosen_change",
    "KL to the reference (nats per answer)": "eval/kl",
    "length of sampled answers (tokens)": "eval/samples/length",
}


def test_the_table_of_arms_is_recomputed_from_metrics_jsonl(page: Path, raw: dict[float, list[Raw]]) -> None:
    """Mean over seeds and Student's interval of every column."""
    rows = tables(page)["by-arm"]
    assert [float(row["beta"]) for row in rows] == [0.1, 0.5]
    for row in rows:
        for column, key in METRICS.items():
            check(row[column], *over_arm(raw[float(row["beta"])], key))


def test_the_differences_are_recomputed_pair_by_seed(page: Path, raw: dict[float, list[Raw]]) -> None:
    """beta 0.5 minus 0.1 of each seed, Student's interval of the two; where they agree, over pairs, or none."""
    (row,) = tables(page)["differences"]
    for column, key in METRICS.items():
        low, high = ({run.seed: run.last[key] for run in raw[beta]} for beta in (0.1, 0.5))
        apart = [high[seed] - low[seed] for seed in low]
        if np.ptp(apart) > 1e-12:
            check(row[column], *interval(apart))
        else:
            assert abs(float(row[column].split()[0]) - apart[0]) < 0.005
            assert " n=15 " in row[column] or "(all equal, no interval)" in row[column]


def test_the_length_table_is_recomputed_from_the_pair_rows(page: Path, raw: dict[float, list[Raw]]) -> None:
    """Accuracy on all pairs and by length class, from log-probs and lengths of each pair."""
    for row in tables(page)["length"]:
        runs = raw[float(row["beta"])]
        longer = runs[0].longer
        classes = {"accuracy": longer == longer, "accuracy, chosen longer": longer > 0}
        classes |= {"accuracy, equal lengths": longer == 0, "accuracy, chosen shorter": longer < 0}
        for column, held in classes.items():
            if not held.any():
                assert row[column] == ""
                continue
            share = float(np.mean([run.win[held].mean() for run in runs]))
            found = ESTIMATE.match(row[column])
            assert found and abs(float(found[1]) - share) <= 0.5 * 10 ** -len(found[1].partition(".")[2])
            assert int(found[4]) in (held.sum(), len(runs))


def test_calibration_is_recomputed_from_the_pair_rows(page: Path, raw: dict[float, list[Raw]]) -> None:
    """Brier score and NLL of S(margin), pair by pair."""
    for row in tables(page)["calibration"]:
        runs = raw[float(row["beta"])]
        margins = [np.where(run.win == 0.5, 0.0, run.margin) for run in runs]
        check(row["NLL (nats)"], *interval([float(np.logaddexp(0, -m).mean()) for m in margins]))
        check(row["Brier score"], *interval([float(((1 - 1 / (1 + np.exp(-m))) ** 2).mean()) for m in margins]))


def test_the_table_of_runs_is_recomputed(page: Path, raw: dict[float, list[Raw]]) -> None:
    """d and accuracy of each run's last evaluation, and its state."""
    rows = {row["id"]: row for row in tables(page)["runs"]}
    for runs in raw.values():
        for run in runs:
            row = rows[run.id]
            assert float(row["accuracy"]) == pytest.approx(run.win.mean(), rel=1e-5)
            d = run.last["eval/logratios/margins"]
            assert float(row["log-ratio difference d (nats)"]) == pytest.approx(d, rel=1e-5)
            assert row["state"] == "done"
    assert sum(row["state"] == "failed" for row in rows.values()) == 1


def read(page: Path, name: str) -> list[dict[str, str]]:
    """A figure's data beside the page; the page's own link holds the same bytes."""
    import base64

    text = (page.with_suffix("") / f"{name}.csv").read_text()
    link = re.search(rf'download="{name}.csv" href="data:text/csv;base64,([^"]+)"', page.read_text())
    assert link and base64.b64decode(link[1]).decode() == text
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ["beta", "frontier"])
def test_every_point_of_a_figure_over_arms_is_recomputed(page: Path, raw: dict[float, list[Raw]], name: str) -> None:
    """Means with intervals, and each run's own value."""
    by_id = {run.id: run for runs in raw.values() for run in runs}
    rows = read(page, name)
    assert len(rows) > 20
    for row in rows:
        key = f"eval/{row['metric']}"
        if row["run"]:
            assert float(row["value"]) == by_id[row["run"]].last[key]
        else:
            beta = float(row.get("beta.value") or row["arm"].removeprefix("beta "))
            want = over_arm(raw[beta], key)
            assert [float(row[end]) for end in ("value", "low", "high")] == pytest.approx(want)
            assert row["n"] == ("2" if row["of"] == "runs" else "15")


def test_every_point_of_the_curves_is_recomputed(page: Path, raw: dict[float, list[Raw]]) -> None:
    """Each evaluation of each arm, with its band."""
    rows = read(page, "curves")
    assert {row["step"] for row in rows} == {"0", "3", "6"} and len(rows) == 2 * 4 * 3
    for row in rows:
        runs = raw[float(row["arm"].removeprefix("beta "))]
        key = f"eval/{row['metric']}"
        values = [next(r[key] for r in run.rows if r["step"] == int(row["step"]) and key in r) for run in runs]
        if row["low"]:
            assert [float(row[end]) for end in ("value", "low", "high")] == pytest.approx(interval(values), abs=1e-12)
        else:
            assert np.ptp(values) < 1e-12 and float(row["value"]) == pytest.approx(values[0], abs=1e-12)


def test_the_pair_figures_are_recomputed(page: Path, raw: dict[float, list[Raw]]) -> None:
    """Mean margin of each pair over seeds; right and said of each reliability bin; accuracy of each length class."""
    for row in read(page, "margin-on-length"):
        runs = raw[float(row["arm"].removeprefix("beta "))]
        at = list(runs[0].pairs["id"]).index(row["id"])
        assert float(row["margin"]) == pytest.approx(np.mean([run.margin[at] for run in runs]))
        assert float(row["length_difference"]) == runs[0].longer[at]
    points = read(page, "reliability")
    for beta, runs in raw.items():
        margin = np.concatenate([np.where(run.win == 0.5, 0, run.margin) for run in runs])
        win = np.concatenate([run.win for run in runs])
        right = np.where(margin == 0, win, np.where((margin > 0) == (win > 0.5), win, 1 - win))
        right = np.where(win == 0.5, 0.5, np.where((margin > 0) == (win == 1), 1.0, right))
        said = 1 / (1 + np.exp(-np.abs(margin)))
        bins = np.minimum(((said - 0.5) * 20).astype(int), 9)
        mine = [row for row in points if row["arm"] == f"beta {beta:g}"]
        assert [int(row["n"]) for row in mine] == [int((bins == b).sum()) for b in np.unique(bins)]
        assert [float(row["p"]) for row in mine] == pytest.approx([said[bins == b].mean() for b in np.unique(bins)])
    for row in read(page, "length-classes"):
        if row["pairs"] == "all":
            runs = raw[float(row["arm"].removeprefix("beta "))]
            prompts = runs[0].pairs.get("prompt", runs[0].pairs["id"])
            want = stats.clustered_share(np.mean([run.win for run in runs], axis=0), list(prompts))
            assert float(row["value"]) == pytest.approx(want.value)


def test_every_row_of_a_results_table_has_its_interval_and_n(page: Path) -> None:
    """Each estimate cell: value, interval (or why there is none), n, and the runs behind it."""
    text = page.read_text()
    for name in ("by-arm", "differences", "length", "calibration"):
        body = re.search(rf'data-name="{name}">.*?<tbody>(.*?)</tbody>', text, re.S)
        assert body
        for row in re.findall(r"<tr>(.*?)</tr>", body[1], re.S):
            cells = re.findall(r'<td class="t-cell t-estimate"[^>]*data-runs="([^"]+)"[^>]*>(.*?)</td>', row, re.S)
            assert cells
            for runs, cell in cells:
                said = strip(cell)
                assert ESTIMATE.match(said) or re.search(r"^\S+ no interval n=\d+ .*\(all equal, no interval\)", said)
                assert re.fullmatch(r"[0-9a-f ]+", runs)
            assert any(ESTIMATE.match(strip(cell)) for _, cell in cells)


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(page: Path, small_sweep: Path, tmp_path: Path) -> None:
    """A copy of the directory under another path, reported on again: every file is equal."""
    copy = tmp_path / small_sweep.name
    shutil.copytree(small_sweep, copy, ignore=shutil.ignore_patterns("report", "report.html"))
    again = maker.report(copy)
    names = sorted(path.name for path in page.with_suffix("").iterdir())
    assert names == sorted(path.name for path in again.with_suffix("").iterdir()) and "report.md" in names
    for name in names:
        assert (page.with_suffix("") / name).read_bytes() == (again.with_suffix("") / name).read_bytes(), name
    assert page.read_bytes() == again.read_bytes()


@pytest.fixture
def kept(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the page, and no second building of them."""
    files = {path.name: path.read_bytes() for path in page.with_suffix("").iterdir()} | {page.name: page.read_bytes()}
    monkeypatch.setattr(maker, "build", lambda directory: files)
    return files


def test_check_finds_a_fresh_report_fresh(dpo: Callable, page: Path, small_sweep: Path) -> None:
    """Built anew by the command and compared byte for byte; exit 0, and the page's path alone on stdout."""
    fresh = dpo("report", str(small_sweep), "--check")
    assert fresh.returncode == 0 and fresh.stdout.splitlines() == [str(page)], fresh.stderr


def test_check_tells_a_stale_report(kept: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 and the names of the files that changed or are missing; nothing is written."""
    assert main(["report", str(tmp_path), "--check"]) == 1
    assert main(["report", str(tmp_path)]) == 0 and main(["report", str(tmp_path), "--check"]) == 0
    (tmp_path / "report" / "beta.csv").write_text("changed")
    (tmp_path / "report.html").write_text("changed")
    (tmp_path / "report" / "curves.png").unlink()
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("stale: ", "report.html", "beta.csv", "curves.png")) and "frontier" not in said
    assert (tmp_path / "report.html").read_text() == "changed"


def test_markdown_has_the_same_figures_and_numbers(page: Path) -> None:
    """Pictures by files that lie beside it; the arms' numbers; no markup of a model's."""
    folder = page.with_suffix("")
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) >= 6 and all((folder / name).is_file() for name in pictures)
    assert all((folder / name).with_suffix(end).is_file() for name in pictures for end in (".csv", ".png"))
    assert "<script" not in text and "&lt;script&gt;" in text
    for row in tables(page)["by-arm"]:
        assert ESTIMATE.match(row["accuracy"])[1] in text


def test_out_names_the_page_and_its_folder(kept: dict[str, bytes], page: Path, tmp_path: Path) -> None:
    """--out FILE, and FILE without .html beside it; what an older report left there is gone."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "old.svg").write_text("old")
    out = maker.report(tmp_path, tmp_path / "mine.html")
    assert out.read_bytes() == page.read_bytes()
    assert not (folder / "old.svg").exists() and (folder / "report.md").is_file()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "no runs here"),
        (lambda root: write_run(root, state="failed"), "no finished policy run to report on (beta0.1-seed0"),
    ],
)
def test_nothing_to_report_on_is_one_line(dpo: Callable, tmp_path: Path, make: Callable, said: str) -> None:
    """Exit 2, no page."""
    make(tmp_path)
    done = dpo("report", str(tmp_path))
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "report.html").exists()
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_runs_measured_differently_are_refused_with_what_differs(dpo: Callable, tmp_path: Path) -> None:
    """Two data sets in one folder: what differs, in which runs, and the folders that would do."""
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, data=8, dataset___target_="dpo.data.hand_authored.HandAuthored")
    done = dpo("report", str(tmp_path))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    for word in ("evaluation pairs differ", "Twelve", "HandAuthored", "1 run in a/", "1 run in b/"):
        assert word in done.stderr, done.stderr
    write_run(tmp_path / "a", 2, train__max_length=32)
    with pytest.raises(UsageError, match=r"truncations .train.max_length. differ: .*64.*32"):
        maker.build(tmp_path / "a")


def parts_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page without its notebooks: what the report itself says of the runs."""
    monkeypatch.setattr(maker, "body", lambda runs: [])
    return maker.build(root)["report.html"].decode()


def test_what_limits_a_page_stands_at_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run; a missing seed; a cut-off metrics file; a failed run: in words."""
    write_run(tmp_path, 0, 0.1)
    assert "One finished run" in parts_of(tmp_path, monkeypatch)
    for seed in (0, 1, 2):
        write_run(tmp_path, seed, 0.5)
    write_run(tmp_path, 1, 0.1)
    cut = write_run(tmp_path, 2, 0.1, state="failed")
    cut.metrics.write_text(cut.metrics.read_text()[:-40])
    text = html.unescape(parts_of(tmp_path, monkeypatch))
    notes = text[text.index('class="notices"') : text.index("<nav")]
    assert "beta 0.1: no finished run with seed 2" in notes
    assert "metrics.jsonl: line 6, the last, was cut off" in notes and "Not finished, counted nowhere: 1 run" in notes


def length_page(root: Path, doses: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of the length section of a report on toy runs whose bias grows with the dose."""
    for dose in doses:
        for seed in (0, 1, 2):
            bias = {"perturb___target_": "dpo.data.perturb.LengthBias", "perturb__dose": dose}
            grown, share = (12.0, 12.0 + 20 * dose), 0.5 + dose / 2
            write_run(root, seed, slope=0.4 * dose, lengths=grown, longer_wins=share, **bias)
    only = [notebook for notebook in notebooks.notebooks() if notebook.name == "length_bias"]
    monkeypatch.setattr(notebooks, "notebooks", lambda: only)
    return strip(maker.report(root).read_text())


def test_an_injected_length_bias_is_named_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dose 0 to 1 adds 20 tokens to the answers and a slope: both stand in a sentence with intervals."""
    text = length_page(tmp_path, (0.0, 1.0), monkeypatch)
    found = re.search(
        r"took up the injected length bias: .*?(\S+) \[(\S+), (\S+)\] tokens of the sampled answers", text
    )
    assert found and abs(float(found[1]) - 20) < 2 and float(found[2]) < 20 < float(found[3])
    assert "Response to a length bias" in text


def test_on_a_balanced_set_no_length_bias_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dose, no growth, no slope: the report says that none is shown, with the figures."""
    text = length_page(tmp_path, (0.0,), monkeypatch)
    assert "no preference for length is shown" in text and "took up" not in text
    assert "a preference for length is shown" not in text.replace("no preference", "")


def test_reward_columns_are_blank_across_losses_of_different_scale(tmp_path: Path) -> None:
    """Sigmoid beside IPO: no reward margin, and the reason below the table; d stays."""
    for seed in (0, 1):
        write_run(tmp_path, seed)
        write_run(tmp_path, seed, facts=MEAN, loss___target_="dpo.losses.ipo.Ipo")
    page = maker.report(tmp_path)
    for row in tables(page)["by-arm"]:
        assert row["reward margin (beta x nats)"] == "" and ESTIMATE.match(row["log-ratio difference d (nats)"])
    assert "reward margin (beta x nats) is blank: losses of different scale" in page.read_text()
