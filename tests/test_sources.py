"""docs/sources.md: every command on it composes, every file and section that it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from dpo.__main__ import parser
from dpo.config import load
from dpo.results.notebooks import notebooks, source
from dpo.sweep import read

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
SPANS = list(dict.fromkeys(re.findall(r"`([^`]+)`", TEXT)))
COMMANDS = [span for span in SPANS if span.startswith("dpo ")]
FOLDERS = ("analysis/", "conf/", "docs/", "dpo/", "outputs/README", "sweeps/", "tests/")
FILES = [span for span in SPANS if span.startswith(FOLDERS)]
SECTIONS = list(dict.fromkeys(re.findall(r'report: "([^"]+)"', TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_composes(command: str) -> None:
    """The verb takes its arguments; settings make a typed run, a sweep's name its jobs."""
    args = parser().parse_args(shlex.split(command)[1:])
    if hasattr(args, "name"):
        assert read(args.name, args.overrides).jobs
    elif getattr(args, "multirun", False):
        assert len(read(None, args.overrides).jobs) > 1
    elif hasattr(args, "overrides"):
        assert load(args.overrides).seed == 0


@pytest.mark.parametrize("path", FILES)
def test_every_file_of_the_page_is_there(path: str) -> None:
    """As it is written."""
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("title", SECTIONS)
def test_every_section_of_the_page_is_a_heading_of_the_report(title: str) -> None:
    """In a notebook, or in what the report adds to them."""
    texts = [source(cell) for n in notebooks() for cell in n.content["cells"] if cell["cell_type"] == "markdown"]
    headings = {line.lstrip("# ") for text in texts for line in text.splitlines() if line.startswith("#")}
    assert title in headings | {"Runs", "Failed and unfinished runs", "Provenance"}


def test_every_make_target_of_the_page_is_there() -> None:
    """make NAME."""
    targets = {
        line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if re.match(r"[a-z]+:", line)
    }
    named = {span.split()[1] for span in SPANS if span.startswith("make ")}
    assert named and named <= targets


def test_the_page_covers_all_five_documents_and_leaves_no_row_empty() -> None:
    """Each row says where; what its second cell holds is a command, a file or a section."""
    assert re.findall(r"^## ([A-E])\.", TEXT, re.M) == list("ABCDE") and len(COMMANDS) > 40 and len(SECTIONS) > 5
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    for row in rows:
        assert "`" in row.split(" | ")[1] or "report:" in row.split(" | ")[1], row
