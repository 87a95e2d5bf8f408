"""The example of docs/results.md runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.results.toy_runs import write_run


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a folder of that name, with two betas and three seeds."""
    for beta in (0.05, 0.5):
        for seed in range(3):
            write_run(tmp_path / "outputs" / "demo", seed, beta)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    found: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], found)
    assert len(found["runs"]) == 6
