"""One damaged file of one run: every list, table and report shows the others and names the file in a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.json_files import Damaged
from dpo.listing import listing
from dpo.records import RunDir
from dpo.results import frames, notebooks, report, tables
from dpo.run_folders import run_of
from dpo.status import save_table
from tests.results.toy_runs import sweep_file, write_run

FILES = ("status.json", "run.yaml", "provenance.json", "metrics.jsonl", "summary.json", "audit.json")
TABLES = ("pairs/step_4.parquet", "samples.jsonl", "compare.jsonl", "pairs")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


def replaced(content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        remove(path)
        path.write_bytes(content)

    return damage


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def zeros_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(200) + b"\n")


def dangling(path: Path) -> None:
    remove(path)
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": replaced(b""),
    "cut": cut,
    "binary": replaced(bytes(range(256)) * 4 + b"\n"),
    "zeros at the end": zeros_at_the_end,
    "a list": replaced(b'["state", "done"]\n'),
    "a number": replaced(b"7\n"),
    "wrong types": replaced(
        b'{"state": 5, "step": "x", "kind": 7, "flags": 3, "last": "x", "train": 1, "loss": [], "jobs": 2, "id": 0}\n'
    ),
    "deep": replaced(b"[" * 20_000 + b"\n"),
    "a folder": folder,
    "missing": remove,
    "dangling": dangling,
}
UNSEEN = {("empty", "metrics.jsonl"), ("empty", "samples.jsonl"), ("missing", "samples.jsonl")}
UNSEEN |= {("empty", "compare.jsonl"), ("missing", "compare.jsonl"), ("missing", "audit.json"), ("folder", "pairs")}
"""What cannot be told from a run that never wrote the file."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs of a sweep."""
    root = tmp_path_factory.mktemp("damage") / "asked"
    runs = [write_run(root, seed, n=12, prompts=12) for seed in range(3)]
    for run in runs:
        run.append(run.compare, [{"prompt": "p", "base": "a", "sft": "b", "dpo": "c"}])
    sweep_file(root, [(run.path.name[-8:], run.path.name[:-9]) for run in runs])
    return root


@pytest.fixture
def copy(sweep: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sweep, tmp_path / "asked"))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*-*") if path.is_dir())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_lists_show_the_others_and_name_the_file(name: str, damage: str, copy: Path, capsys) -> None:
    """`runs`, `status` (from the sweep's record and without one), with --json too, and table.csv."""
    bad, *good = names(copy)
    DAMAGES[damage](copy / bad / name)
    for verb in (
        ["runs", str(copy)],
        ["status", str(copy)],
        ["runs", str(copy), "--json"],
        ["status", str(copy), "--json"],
    ):
        assert main(verb) == 0
        said = capsys.readouterr()
        assert all(f"{run}" in said.out for run in good)
        if name in ("status.json", "metrics.jsonl", "summary.json") and (damage, name) not in UNSEEN:
            assert any(bad in text and name in text for text in said.err.splitlines()), said.err
    save_table(copy)
    table = (copy / "table.csv").read_text()
    assert all(run in table for run in (bad, *good))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, *TABLES])
def test_a_report_counts_the_others_and_names_the_file(name: str, damage: str, copy: Path, monkeypatch) -> None:
    """Frames, tables, notices and the page (its notebooks aside)."""
    bad, *good = names(copy)
    if name == "pairs" and damage not in ("missing", "a folder"):
        return
    DAMAGES[damage](copy / bad / name)
    runs = frames.load(copy)
    assert {run.name for run in runs.done} >= set(good)
    notes = [note for note in runs.notes if bad in note]
    if (damage, name) not in UNSEEN:
        assert any(name.partition("/")[0] in note for note in notes), runs.notes
        assert all("\n" not in note for note in notes)
    monkeypatch.setattr(notebooks, "notebooks", lambda: [])
    page = report.build(copy)["report.html"].decode()
    assert all(run in page for run in good)
    for table in (tables.runs_table(runs), tables.failed_table(runs), tables.provenance_table(runs)):
        table._repr_html_()
    assert len(runs.steps) and len(runs.runs) >= 2 and len(runs.done.pairs) and len(runs.samples)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_a_sweep_hides_no_run(damage: str, copy: Path, capsys) -> None:
    """The runs that lie there are shown, and the file is named where it is there."""
    DAMAGES[damage](copy / "sweep.json")
    assert main(["status", str(copy)]) == 0
    said = capsys.readouterr()
    assert all(run in said.out for run in names(copy))
    assert damage in ("missing", "wrong types") or "sweep.json" in said.err
    assert len(frames.load(copy)) == 3


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "compare.jsonl"])
def test_a_verb_for_one_run_names_the_file(name: str, damage: str, copy: Path, capsys) -> None:
    """Exit 2 and one line with the path, or the answer where the file is not needed; never a Python error."""
    bad = copy / names(copy)[0]
    DAMAGES[damage](bad / name)
    for verb in (["compare", str(bad)], ["score", str(bad)], ["score", str(bad), "none.jsonl"]):
        code = main(verb)
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert len(said.strip().splitlines()) <= 1 and "Error" not in said, said


def test_a_file_that_may_not_be_read_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission is a damage like any other."""
    bad, real = names(copy)[0], Path.read_text

    def refuse(path: Path, *args: str, **options: str) -> str:
        if path.parent.name == bad and path.name == "status.json":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    found = listing(copy)
    assert [run.state for run in found.runs] == ["unreadable", "done", "done"]
    assert any("status.json" in remark and "Permission denied" in remark for remark in found.remarks)
    with pytest.raises(Damaged, match=r"restore the file, or move its folder away"):
        RunDir(copy / bad).status()


@pytest.mark.parametrize("name", ["backup-{id}", "zz-{id}", "{name}/copy-{id}", "{name}/{name}"])
@pytest.mark.parametrize("state", ["failed", "running", "pending", "done", "damaged"])
def test_the_finished_run_wins_over_its_copies(name: str, state: str, copy: Path, capsys) -> None:
    """Whatever the copy is called, and wherever beside or inside it lies; a sentence says that it is ignored."""
    own = names(copy)[0]
    where = copy / name.format(id=own[-8:], name=own)
    shutil.copytree(copy / own, where, ignore=shutil.ignore_patterns("copy-*", own))
    if state == "damaged":
        (where / "status.json").write_text("")
    else:
        RunDir(where).set_status(state, **({"error": "lost"} if state == "failed" else {}))
    run, _ = run_of(copy, own[-8:], own[:-9])
    assert RunDir(run.path).status()["state"] == "done"
    for verb in (["status", str(copy)], ["runs", str(copy)]):
        assert main(verb) == 0
        said = capsys.readouterr()
        assert "lost" not in said.out
    assert "ignored" in said.err and str(where) in said.err
    assert len(frames.load(copy)) == 3


def test_where_none_is_finished_the_one_of_the_jobs_own_name_counts(tmp_path: Path) -> None:
    """A failed copy does not take the place of a running job."""
    for name, state in (("backup-0123abcd", "failed"), ("seed0-0123abcd", "running")):
        RunDir(tmp_path / name).create()
        RunDir(tmp_path / name).set_status(state)
    run, copies = run_of(tmp_path, "0123abcd", "seed0")
    assert run.path.name == "seed0-0123abcd" and [path.name for path in copies] == ["backup-0123abcd"]


def test_discarding_a_run_leaves_what_it_did_not_write(tmp_path: Path) -> None:
    """A note beside its files, and a file of the user's among its tables."""
    run = write_run(tmp_path, 0)
    (run.path / "notes.md").write_text("mine")
    (run.path / "pairs" / "mine.csv").write_text("1")
    assert not run.discard()
    assert sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*")) == ["notes.md", "pairs", "pairs/mine.csv"]
    assert write_run(tmp_path, 1).discard() and RunDir(tmp_path / "none").discard()


def test_nothing_to_list_is_one_line(tmp_path: Path) -> None:
    """A folder whose only record is damaged says so."""
    (tmp_path / "sweep.json").write_text("")
    with pytest.raises(UsageError, match=r"no runs here; .*sweep\.json: is empty"):
        listing(tmp_path)


def test_a_json_row_of_another_kind_is_no_row(tmp_path: Path) -> None:
    """Rows that are read on must be objects."""
    run = RunDir(tmp_path)
    run.metrics.write_text(json.dumps({"a": 1}) + "\n[1]\n")
    with pytest.raises(Damaged, match=r"metrics\.jsonl: line 2 is damaged"):
        list(run.rows(run.metrics))
