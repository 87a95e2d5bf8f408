"""`dpo report`: the same bytes, stale or not, what is refused, and what stands on the page."""

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.results import notebooks
from dpo.results import report as maker
from tests.results.reading import ESTIMATE, strip, tables
from tests.results.toy_runs import MEAN, write_run


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(
    dpo: Callable, page: Path, small_sweep: Path, tmp_path: Path
) -> None:
    """A copy of the folder, report and all, under another path: the command builds it anew and finds every file equal,
    none missing and none over; exit 0, and the page's path alone on stdout."""
    copy = tmp_path / small_sweep.name
    shutil.copytree(small_sweep, copy)
    fresh = dpo("report", str(copy), "--check")
    assert fresh.returncode == 0 and fresh.stdout.splitlines() == [str(copy / page.name)], fresh.stderr
    assert "report.md" in {path.name for path in page.with_suffix("").iterdir()}


@pytest.fixture
def kept(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the page, and no second building of them."""
    parts = [path for path in page.with_suffix("").iterdir() if not path.name.startswith(".")]
    files = {path.name: path.read_bytes() for path in (*parts, page)}
    monkeypatch.setattr(maker, "build", lambda directory: files)
    return files


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
    kept["old.svg"] = b"old"
    maker.report(tmp_path, tmp_path / "mine.html")
    assert (folder / "old.svg").is_file()
    del kept["old.svg"]
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


def test_reward_columns_are_blank_across_losses_of_different_scale(tmp_path: Path, monkeypatch) -> None:
    """Sigmoid beside IPO: no reward margin, and the reason below the table; d stays."""
    only = [notebook for notebook in notebooks.notebooks() if notebook.name == "loss_variants"]
    monkeypatch.setattr(notebooks, "notebooks", lambda: only)
    for seed in (0, 1):
        write_run(tmp_path, seed)
        write_run(tmp_path, seed, facts=MEAN, loss___target_="dpo.losses.ipo.Ipo")
    page = maker.report(tmp_path)
    for row in tables(page)["by-arm"]:
        assert row["reward margin (beta x nats)"] == "" and ESTIMATE.match(row["log-ratio difference d (nats)"])
    assert "reward margin (beta x nats) is blank: losses of different scale" in page.read_text()
