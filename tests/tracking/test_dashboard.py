"""The W&B workspace and report: built without a network, equal each time, saved as built, of keys that exist."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpo.__main__ import main
from dpo.records import RunDir
from dpo.tracking.dashboard import NAME, REWARDS, VIEW, files

from ..sweeps import ROOT
from ..test_metric_table import documented
from .server import Server


def build(folder: Path, *options: str) -> int:
    return main(["dashboard", str(folder), "--project", "p", "--entity", "tester", *options])


def written(folder: Path) -> tuple[Any, Any]:
    """What dashboard.json and report.json hold."""
    return tuple(json.loads((folder / "wandb" / f"{name}.json").read_text()) for name in ("dashboard", "report"))


def panels(value: Any) -> Iterator[dict[str, Any]]:
    """Every panel below a workspace or report."""
    if isinstance(value, dict):
        if "viewType" in value:
            yield value
        for below in value.values():
            yield from panels(below)
    if isinstance(value, list):
        for below in value:
            yield from panels(below)


def test_every_metric_of_a_panel_is_one_that_runs_write() -> None:
    """train/ and eval/ keys of both files stand in docs/metrics.md; there are many."""
    used = set(re.findall(r'"(?:summary:)?((?:train|eval)/[^"]+)"', json.dumps(files("p", "")))) - {"train/global_step"}
    assert used - documented() == set()
    assert {f"{kind}/{name}" for kind in ("train", "eval") for name in REWARDS} <= used and len(used) > 20


def test_every_setting_of_a_panel_is_one_that_runs_have(finished: RunDir) -> None:
    """config: keys of both files are found in what a run shows of itself."""
    import yaml

    from dpo.tracking.shown import shown

    config = shown(finished, yaml.safe_load(finished.config.read_text())).config
    used = set(re.findall(r'"config:([^"]+)"', json.dumps(files("p", ""))))
    assert used
    for key in used:
        first, value, *rest = key.split(".")
        assert value == "value"
        node = config[first]
        for word in rest:
            node = node[word]


def test_both_hold_every_kind_of_panel_once_laid_out() -> None:
    """Rewards, bands by beta, length, run comparer, parallel coordinates, importance, answers, words; none overlap."""
    for made in files("p", "").values():
        found = list(panels(made))
        kinds = {panel["viewType"] for panel in found}
        assert kinds >= {
            "Run History Line Plot",
            "Scatter Plot",
            "Run Comparer",
            "Parallel Coordinates Plot",
            "Parameter Importance",
            "Markdown Panel",
            "Weave",
        }
        bands = [panel["config"] for panel in found if panel["config"].get("groupArea")]
        assert [config["groupBy"] for config in bands] == ["beta.value"] * 3
        assert len({panel["__id__"] for panel in found}) == len(found)


def test_two_builds_are_equal_and_move_no_random_stream(tmp_path: Path) -> None:
    """In this process, and byte for byte in another."""
    random.seed(3)
    expected = random.random()
    random.seed(3)
    assert build(tmp_path) == 0
    assert random.random() == expected
    call = [sys.executable, "-m", "dpo", "dashboard", ".", "--project", "p", "--entity", "tester"]
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(call, cwd=other, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT), "HOME": str(other)})
    for name in ("dashboard.json", "report.json"):
        assert (tmp_path / "wandb" / name).read_bytes() == (other / "wandb" / name).read_bytes()


def test_online_what_is_saved_is_what_was_written_and_a_second_time_replaces_it(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """One workspace and one report on the server after two calls; the addresses are printed."""
    for _ in range(2):
        assert build(tmp_path, "--online") == 0
        views = {view["type"]: view for view in server.views.values()}
        assert len(server.views) == 2
        workspace, report = written(tmp_path)
        assert json.loads(views["project-view"]["spec"]) == workspace
        assert json.loads(views["runs"]["spec"]) == report
        assert views["project-view"]["name"] == VIEW and views["runs"]["displayName"] == NAME
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{server.url}/tester/p?nw=")


def test_wrong_use_is_one_line(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder; a project that cannot be; online without a key."""
    (tmp_path / "out").mkdir()
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for arguments in (["nowhere"], ["out", "--project", "a#b"], ["out", "--online"]):
        assert main(["dashboard", *(str(tmp_path / arguments[0]), *arguments[1:])]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
