"""Every number of a report is recomputed from the runs' files, by nothing of dpo.results but two statistics."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from dpo.records import RunDir
from dpo.results import stats
from tests.results.reading import ESTIMATE, strip, tables


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
        self.start = {k: np.array(v) for k, v in RunDir(path).read_pairs(0).items()}
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
    def c(self) -> np.ndarray:
        """Log-ratio of each chosen answer."""
        return self.pairs["chosen_logp"] - self.pairs["chosen_ref_logp"]

    @property
    def scale(self) -> np.ndarray:
        """What its rounding is relative to."""
        return np.abs(self.pairs["chosen_logp"]) + np.abs(self.pairs["chosen_ref_logp"])

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


def crossed(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval of (seeds, pairs) values over both: a variance part of each, their noise once."""
    seeds, pairs = values.shape
    over_seeds, over_pairs = values.mean(1).var(ddof=1) / seeds, values.mean(0).var(ddof=1) / pairs
    noise = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    cells = np.square(noise).sum() / ((seeds - 1) * (pairs - 1)) / values.size
    (few, f_few), (many, f_many) = sorted(((over_seeds, seeds - 1), (over_pairs, pairs - 1)), key=lambda part: part[1])
    many = max(many - cells, 0)
    freedom = (few + many) ** 2 / (few**2 / f_few + many**2 / f_many)
    half = max(student.ppf(0.975, f_few) * few**0.5, student.ppf(0.975, freedom) * (few + many) ** 0.5)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


ROWS = {
    "eval/logratios/margins": lambda run: run.c - (run.pairs["rejected_logp"] - run.pairs["rejected_ref_logp"]),
    "eval/rewards/margins": lambda run: run.margin,
    "eval/rewards/accuracies": lambda run: run.win,
    "eval/displacement": lambda run: (run.c < -run.last["eval/tie"] * run.scale).astype(float),
    "eval/logps/chosen_change": lambda run: run.pairs["chosen_logp"] - run.start["chosen_logp"],
}
"""Metrics that are means over pairs, pair by pair; every pair has a prompt of its own."""
SHARES = ("eval/rewards/accuracies", "eval/displacement")


def over_arm(runs: list[Raw], key: str) -> tuple[float, float, float]:
    """The interval over seeds and pairs of what has rows, Wilson's for shares; Student's over seeds of the rest."""
    if key not in ROWS:
        return interval([run.last[key] for run in runs])
    values = np.stack([ROWS[key](run) for run in runs])
    if key not in SHARES:
        return crossed(values)
    share = stats.clustered_share(values, range(values.shape[1]))
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
    """Mean and interval of every column."""
    rows = tables(page)["by-arm"]
    assert [float(row["beta"]) for row in rows] == [0.1, 0.5]
    for row in rows:
        for column, key in METRICS.items():
            check(row[column], *over_arm(raw[float(row["beta"])], key))


def test_the_differences_are_recomputed_by_seed_and_pair(page: Path, raw: dict[float, list[Raw]]) -> None:
    """beta 0.5 minus 0.1 of each seed and pair; Student's interval of the two seeds where there are no rows."""
    (row,) = tables(page)["differences"]
    for column, key in METRICS.items():
        low, high = ({run.seed: run for run in raw[beta]} for beta in (0.1, 0.5))
        apart = [high[seed].last[key] - low[seed].last[key] for seed in low]
        if key in ROWS:
            values = np.stack([ROWS[key](high[seed]) - ROWS[key](low[seed]) for seed in low])
            if np.ptp(values) > 1e-12:
                check(row[column], *crossed(values))
                continue
        elif np.ptp(apart) > 1e-12:
            check(row[column], *interval(apart))
            continue
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
