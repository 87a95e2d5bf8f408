"""What verbs print: on the right stream, whole in a pipe, and never with a character that a terminal would obey."""

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo import audit, console, progress, rounds, terminal
from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.terminal import HIDDEN, Sheet, fitting, line, visible
from tests.results.toy_runs import write_run

PACKAGE = Path(__file__).parents[1] / "dpo"
HOSTILE = (
    "\x1b]0;OWNED\x07\x1b[31mred\x1b[2J\x9b31m\u202egnp.exe\x08\x7f[/INST] [bold]x[/bold] :skull: \udc80\r\ndpo: done"
)
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
STREAMS = ("stdout", "stderr")


class Screen(io.StringIO):
    """A terminal that keeps what it is sent."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sweep with a finished and a failed run, whose every text is hostile."""
    folder = tmp_path / "asked"
    done = write_run(folder, 0, name="\x1b[2J[bold]-00000000")
    done.compare.write_text(json.dumps(dict.fromkeys(("prompt", "base", "sft", "dpo"), HOSTILE)) + "\n")
    (done.path / "summary.json").write_text(json.dumps(done.read("summary") | {"flags": {HOSTILE: True}}))
    failed = write_run(folder, 1, state="failed", name="[red]-00000001")
    (failed.path / "status.json").write_text(json.dumps({"state": "failed", "error": HOSTILE, "traceback": HOSTILE}))
    jobs = [
        {"id": f"{n:08}", "name": name, "settings": {"\x1b[1m": HOSTILE}} for n, name in enumerate(("a", "b", HOSTILE))
    ]
    (folder / "sweep.json").write_text(json.dumps({"sweep": HOSTILE, "question": HOSTILE, "jobs": jobs}))
    return folder


VERBS = (
    ["runs", "{root}"],
    ["runs", "{root}", "--json"],
    ["status", "{root}"],
    ["status", "{root}", "--json"],
    ["compare", "{done}"],
    ["compare", "{done}", "--json"],
    ["compare", "{root}/" + HOSTILE],
    ["score", "{done}", HOSTILE],
    ["score", "{done}", "--loss", HOSTILE],
    ["reproduce", "{root}/[red]-00000001"],
    ["report", "{root}/" + HOSTILE],
    ["report", "{root}", "--out", HOSTILE + ".pdf"],
    ["train", f"dataset={HOSTILE}"],
    ["train", f"nothing={HOSTILE}"],
    ["train", "dataset=files", f"dataset.path='{HOSTILE}'"],
    ["sweep", HOSTILE],
    ["plan", HOSTILE],
    ["audit", f"dataset={HOSTILE}"],
    ["preview", f"dataset={HOSTILE}"],
    ["judge", f"judge.run={HOSTILE}"],
    ["runs", HOSTILE],
    ["runs", "{root}", HOSTILE],
    [HOSTILE],
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb)[:24])
def test_no_verb_passes_on_what_a_terminal_obeys(
    verb: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers, names, errors, settings, typed words: shown as escapes on both streams."""
    done = root / "\x1b[2J[bold]-00000000"
    arguments = [part.replace("{root}", str(root)).replace("{done}", str(done)) for part in verb]
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code in (0, 1, 2) and (said.out or said.err)
    assert not ACTS.search((said.out + said.err).replace("\r", "", 0)), repr(said)
    if code == 2 and verb != [HOSTILE] and len(verb) < 3:
        assert len(said.err.strip().splitlines()) <= 4


def test_markup_and_emoji_in_data_are_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons are shown as they stand, in a list and where a run failed."""
    assert main(["status", str(root)]) == 0
    said = capsys.readouterr().out
    assert "[/INST] [bold]x[/bold] :skull:" in said and "[red]-00000001" in said


@given(st.text(st.characters(exclude_categories=[]), max_size=60))
def test_whatever_is_shown_can_be_seen(text: str) -> None:
    """Nothing hidden is left; what is visible is left as it is; a line is a line; every encoding takes it."""
    assert not HIDDEN.search(visible(text)) and not ACTS.search(visible(text))
    if not HIDDEN.search(text):
        assert visible(text) == text
    assert "\n" not in line(text)
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        fitting(visible(text), SimpleNamespace(encoding=encoding)).encode(encoding)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=3), st.booleans())
def test_a_table_passes_nothing_on_either(rows: list[tuple[str, str]], long: bool) -> None:
    """In a pipe and on a terminal, whatever its cells, titles and foot hold."""
    sheet = Sheet(rows[0][0], ("a", "b\x1b[1m"), right=["a"], long=["a", "b\x1b[1m"] if long else [], foot=rows[0][1])
    for row in rows:
        sheet.add(*row)
    for screen in (io.StringIO(), Screen()):
        sheet.show(screen)
        own = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())  # rich's colours and nothing else
        assert not ACTS.search(own)


def test_a_pipe_gets_whole_lines_without_colours(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each run with its whole name, nothing cut, folded or drawn."""
    long = write_run(root, 2, name="x" * 200 + "-00000003")
    assert main(["runs", str(root.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(long.path.name in text for text in lines) == 1 and len(lines) == 4
    assert not any(sign in "".join(lines) for sign in "│┃━╭") and lines[0].split()[:3] == ["run", "state", "step"]


@pytest.mark.parametrize("verb", ["runs", "status"])
def test_json_is_for_scripts(verb: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but JSON on stdout, with what the table shows and more; what is not finite is null."""
    run = RunDir(root / "\x1b[2J[bold]-00000000")
    rows = [json.loads(text) for text in run.metrics.read_text().splitlines()]
    rows[-1]["eval/loss"] = float("nan")
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([verb, str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert [run["state"] for run in found["runs"]] == ["done", "failed", "pending"]
    assert found["runs"][0]["last"]["eval/loss"] is None and found["runs"][1]["error"] == HOSTILE


def reports() -> Iterator[Any]:
    """What verbs show that no toy folder reaches: a data report, agreement, rounds, remarks, bars, faults."""
    side = {"p5": 1, "p50": 2, "p95": 3, "edges": [0, 9], "histogram": [1, 0, 2]}
    part = {f"{name}_tokens": side for name in ("prompt", "chosen", "rejected", "difference")}
    part |= {"pairs": 3, "chosen_tokens_mean": 2.0, "rejected_tokens_mean": 1.0, "longer_wins_interval": (0.1, 0.9)}
    part |= {"longer_wins": 0.5, "truncated_chosen": 0, "truncated_rejected": 0, "eos_lost": 0, "boundary_merges": 0}
    probe = {"sentence": HOSTILE, "tells": [{"chosen_only": 0.5, "rejected_only": 0.1, "feature": HOSTILE}]}
    finding = {"level": "warn", "text": HOSTILE}
    yield lambda: audit.show({"rows": 3, "train": part, "evaluation": part, "probe": probe, "findings": [finding]})
    values = {"agreement": 0.5, "pairs": 3.0, f"explicit/{HOSTILE}": 1.0}
    yield lambda: console.show_agreement(RunDir(Path(HOSTILE)), values)
    yield lambda: rounds.show([{"round": HOSTILE, "pairs": 1, "first": {}, "last": {"eval/kl": 1.0}}])
    yield lambda: progress.say(HOSTILE)
    yield lambda: list(progress.bar(range(3), HOSTILE, "pair"))
    yield lambda: terminal.fault(UsageError(HOSTILE))
    yield lambda: terminal.tell(HOSTILE)


@pytest.mark.parametrize("show", list(reports()))
def test_nothing_that_is_shown_acts(show: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """But for the carriage return with which a bar is drawn anew."""
    show()
    said = capsys.readouterr()
    assert said.out + said.err and not ACTS.search((said.out + said.err).replace("\r", ""))


def test_every_room_prints_through_the_one_door() -> None:
    """No print, no write to a standard stream, no rich and no tqdm anywhere else."""
    doors = {"terminal.py": "rich", "progress.py": "tqdm", "status.py": "rich.live"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}: print"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write":
                target = node.func.value
                assert not (isinstance(target, ast.Attribute) and target.attr in STREAMS), f"{path}: {node.lineno}"
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.partition(".")[0] in ("rich", "tqdm"):
                    assert name.startswith(doors.get(path.name, "none")), f"{path} imports {name}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_takes_everything(encoding: str, tmp_path: Path) -> None:
    """Names and answers in any script, on both streams: exit 0, and escapes for what cannot be written."""
    run = write_run(tmp_path / "ünï-日本", 0)
    run.compare.write_text(json.dumps(dict.fromkeys(("prompt", "base", "sft", "dpo"), "→ 日本 😀")) + "\n")
    code = "import sys; from dpo.__main__ import main; sys.exit(max(main(v.split()) for v in sys.argv[1:]))"
    verbs = [f"runs {tmp_path}", f"status {tmp_path}", f"compare {run.path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *verbs], capture_output=True, env={"PYTHONIOENCODING": encoding, "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert "\\u65e5" in done.stdout.decode(encoding)
