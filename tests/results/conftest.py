"""A small sweep, trained once, and its report."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dpo.results import notebooks
from dpo.results.report import report
from tests.processes import DPO, Python
from tests.results.small_sweep import beta_sweep, without_network
from tests.sharing import once, shared_root


@pytest.fixture(scope="session")
def small_sweep(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two betas with two seeds and a failed run; to be read only."""
    return once(shared_root(tmp_path_factory) / "sweep", lambda root: beta_sweep(root, cache)) / "runs"


@pytest.fixture(scope="session")
def page(small_sweep: Path) -> Path:
    """Its report.html, with report/ beside it, made without a network."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            without_network(folder / "site", patch)
            patch.setattr(notebooks, "execute", kept(notebooks.execute, folder / "executed.json"))
            report(small_sweep)

    once(small_sweep.parent / "page", make)
    return small_sweep / "report.html"


def kept(execute: Callable, path: Path) -> Callable:
    """`execute`, which also writes each executed notebook to the file, by name."""

    def call(work: Sequence, done: Callable) -> list:
        ran = execute(work, done)
        path.write_text(json.dumps({n.name: content for (n, _), content in zip(work, ran, strict=True)}))
        return ran

    return call


@pytest.fixture(scope="session")
def executed(page: Path) -> dict[str, dict]:
    """The notebooks that the page was made of, with their outputs, by name."""
    return json.loads((page.parents[1] / "page" / "executed.json").read_text())


@pytest.fixture
def dpo():
    """dpo(*arguments) -> the finished process of the command."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = Python(DPO, *arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)

    return call
