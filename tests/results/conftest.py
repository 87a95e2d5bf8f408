"""A small sweep, trained once, and its report."""

import subprocess
from pathlib import Path

import pytest

from dpo.results.report import report
from tests.processes import DPO, Python
from tests.results.small_sweep import beta_sweep
from tests.sharing import once, shared_root


@pytest.fixture(scope="session")
def small_sweep(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two betas with two seeds and a failed run; to be read only."""
    return once(shared_root(tmp_path_factory) / "sweep", lambda root: beta_sweep(root, cache)) / "runs"


@pytest.fixture(scope="session")
def page(small_sweep: Path) -> Path:
    """Its report.html, with report/ beside it."""
    once(small_sweep.parent / "page", lambda folder: report(small_sweep))
    return small_sweep / "report.html"


@pytest.fixture
def dpo():
    """dpo(*arguments) -> the finished process of the command."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = Python(DPO, *arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)

    return call
