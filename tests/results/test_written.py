"""What a report replaces and removes: its own unchanged files, whatever else lies there."""

import itertools
from pathlib import Path

import pytest

from dpo.errors import UsageError
from dpo.results import written

OURS = b"Made by dpo report"
FIRST = {"report.html": b"<p>1</p>" + OURS, "report.md": b"# 1", "beta.svg": b"<svg>1", "old.csv": b"1"}
SECOND = {"report.html": b"<p>2</p>" + OURS, "report.md": b"# 2", "beta.svg": b"<svg>2", "new.png": b"2"}
USERS = {"notes.md": b"mine", "data.csv": b"1", "plot.png": b"mine", "fig.svg": b"mine", "thesis.tex": b"mine"}


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the manifest."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != written.MANIFEST)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def make(root: Path, files: dict[str, bytes], out: str = "paper.html") -> list[Path]:
    """Write a report of these files."""
    return written.write(*written.places(root, root / out), files, OURS)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """The user's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("out", "beside"), [("paper.html", "paper"), ("thesis", "thesis"), ("thesis", "thesis/report")]
)
def test_the_users_files_stay(out: str, beside: str, tmp_path: Path) -> None:
    """Beside the page, in the folder of its parts, in a folder that --out names; also when the report is made again."""
    fill(tmp_path / beside, USERS)
    for files in (FIRST, SECOND, FIRST):
        make(tmp_path, files, out)
        assert {name: tree(tmp_path)[f"{beside}/{name}"] for name in USERS} == USERS


def test_what_an_older_report_left_goes(tmp_path: Path) -> None:
    """Nothing of it stays that the new one does not have."""
    make(tmp_path, FIRST)
    make(tmp_path, SECOND)
    assert set(tree(tmp_path)) == {"paper.html", "paper/report.md", "paper/beta.svg", "paper/new.png"}
    assert not (tmp_path / "paper" / "old.csv").exists()


@pytest.mark.parametrize("name", ["report.html", "report.md", "beta.svg", "new.png"])
def test_a_file_in_the_way_stops_before_anything_is_written(name: str, tmp_path: Path) -> None:
    """A file of the user's that is called like one of ours, before the first report or since the last: one line."""
    make(tmp_path, FIRST)
    path = tmp_path / "paper.html" if name == "report.html" else tmp_path / "paper" / name
    path.write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"{path.name}: not written by dpo report, or changed since"):
        make(tmp_path, SECOND)
    assert tree(tmp_path) == before


def test_a_changed_file_of_an_older_report_stays(tmp_path: Path) -> None:
    """It is named, and the new report is made."""
    make(tmp_path, FIRST)
    (tmp_path / "paper" / "old.csv").write_bytes(b"with a column of mine")
    assert make(tmp_path, SECOND) == [tmp_path / "paper" / "old.csv"]
    assert tree(tmp_path)["paper/old.csv"] == b"with a column of mine"


@pytest.mark.parametrize("name", ["../../precious.md", "/etc/passwd", "..", "", ".", "sub/x.md"])
def test_a_manifest_names_files_of_its_folder_only(name: str, tmp_path: Path) -> None:
    """One that came with a received folder says nothing about other places."""
    make(tmp_path, FIRST)
    fill(tmp_path.parent, {"precious.md": b"x"})
    known = {name: [written.digest(b"x")]}
    written.keep(tmp_path / "paper", tmp_path / "paper.html", known)
    assert written.read(tmp_path / "paper", tmp_path / "paper.html") == {}


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_kill_at_any_write_leaves_nothing_that_the_next_report_minds(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is known by its old and its new content while they change."""
    make(tmp_path, FIRST)
    count, real = itertools.count(1), written.write_atomically

    def put(path: Path, content: bytes | str) -> None:
        if next(count) == stop:
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(written, "write_atomically", put)
    try:
        make(tmp_path, SECOND)
    except KeyboardInterrupt:
        monkeypatch.setattr(written, "write_atomically", real)
        assert make(tmp_path, SECOND) == []
    expected = {f"paper/{name}": content for name, content in SECOND.items() if name != "report.html"}
    assert tree(tmp_path) == expected | {"paper.html": SECOND["report.html"]}


def test_a_report_from_before_there_were_manifests_is_replaced(tmp_path: Path) -> None:
    """Known by the foot of its page; files of other names stay."""
    make(tmp_path, FIRST)
    (tmp_path / "paper" / written.MANIFEST).unlink()
    make(tmp_path, SECOND)
    assert tree(tmp_path)["paper/report.md"] == b"# 2" and tree(tmp_path)["paper/old.csv"] == b"1"


def test_out_that_is_neither_page_nor_folder_is_refused(tmp_path: Path) -> None:
    """A name that says another kind of file."""
    for name in ("paper.pdf", "report.md"):
        with pytest.raises(UsageError, match="must be a page such as"):
            written.places(tmp_path, tmp_path / name)
