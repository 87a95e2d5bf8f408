"""A small sweep, trained once, and its report."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpo.results.report import report
from tests.results.small_sweep import beta_sweep


@pytest.fixture(scope="session")
def small_sweep(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two betas with two seeds and a failed run; to be read only."""
    return beta_sweep(tmp_path_factory.mktemp("sweep"), cache)


@pytest.fixture(scope="session")
def page(small_sweep: Path) -> Path:
    """Its report.html, with report/ beside it."""
    return report(small_sweep)


@pytest.fixture
def dpo():
    """dpo(*arguments) -> the finished process of the command."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dpo", *arguments], capture_output=True, text=True)

    return call
