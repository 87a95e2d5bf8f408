"""No module comes from the working directory: a received folder of runs is looked at, never run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpo import safe_path
from dpo.results import frames, notebooks
from tests.results.toy_runs import write_run

MODULES = ("argparse", "rich", "tqdm", "yaml", "pandas", "numpy", "pyarrow", "scipy", "matplotlib", "IPython", "json")


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A folder of runs with modules of well-known names in it, each of which leaves a mark."""
    write_run(tmp_path / "runs", 0)
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'RAN')!r}, 'a').write({name!r})\nraise ImportError\n"
        )
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "planted.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('plugin')\n")
    return tmp_path


@pytest.mark.parametrize("path", [None, ".", "{home}:.", "{here}"])
@pytest.mark.parametrize("verb", [["runs", "."], ["train", "nothing=1"]])
def test_no_verb_imports_what_lies_there(path: str | None, verb: list[str], received: Path) -> None:
    """`python -m dpo` with the folder as working directory and on PYTHONPATH, by an empty or a relative entry."""
    home = str(Path(__file__).parents[1])
    given = "" if path is None else path.format(home=home, here=received)
    # PYTHONPATH stands before the standard library, and Python itself would take json from there before any line of
    # ours; so there only names that Python does not need at its start
    for name in ("argparse", "json") if path else ():
        (received / f"{name}.py").unlink()
    found = {"PYTHONPATH": os.pathsep.join([home, given]) if given != home else home}
    done = subprocess.run(
        [sys.executable, "-m", "dpo", *verb], cwd=received, env=os.environ | found, capture_output=True
    )
    assert done.returncode in (0, 2), done.stderr
    assert not (received / "RAN").exists(), (received / "RAN").read_text()


def test_what_python_starts_keeps_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and kernels get a module path without the working directory; the package's own folder stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), ".", safe_path.HOME, "/elsewhere"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path), "/elsewhere"]))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    safe_path.leave_out_working_directory()
    assert sys.path == [safe_path.HOME, "/elsewhere"] and os.environ["PYTHONPATH"] == "/elsewhere"
    (tmp_path / "planted.py").write_text("")
    code = [sys.executable, "-m", "planted"]
    assert subprocess.run(code, capture_output=True).returncode == 1
    monkeypatch.chdir(safe_path.HOME)
    monkeypatch.setattr(sys, "path", ["", safe_path.HOME])
    safe_path.leave_out_working_directory()
    assert safe_path.HOME in sys.path


def test_a_kernel_works_elsewhere_and_imports_nothing_from_here(
    received: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a TMPDIR that no socket's name fits into, and with a start-up file of the user's."""
    long = tmp_path_factory.mktemp("t") / ("d" * 90)
    long.mkdir()
    monkeypatch.chdir(received)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", str(long))
    (received / "start.py").write_text(f"open({str(received / 'RAN')!r}, 'a').write('start')\n")
    monkeypatch.setenv("PYTHONSTARTUP", str(received / "start.py"))
    text = "where = ''\nimport os, sys, pandas\nprint(os.getcwd(), '' in sys.path, os.path.exists(where))"
    cell = {"cell_type": "code", "source": text, "metadata": {"tags": ["parameters"]}, "outputs": [], "id": "a"}
    content = {"cells": [cell | {"execution_count": None}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    notebook = notebooks.Notebook("one", 0, "", content)
    (ran,) = notebooks.execute([(notebook, {"where": str(received)})], lambda name: None)
    (output,) = ran["cells"][0]["outputs"]
    cwd, inside, given = output["text"].split()
    assert (inside, given) == ("False", "True") and not cwd.startswith(str(received)) and len(cwd) < 100
    assert not (received / "RAN").exists()


def test_the_folder_for_sockets_is_short_or_the_rule_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own where it is; where nothing fits, one line with the variable."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert notebooks.short_folder() == "/tmp"
    monkeypatch.setattr("tempfile.tempdir", "/" + "ü" * 60)
    assert len(os.fsencode(notebooks.short_folder())) <= 70
    with pytest.raises(notebooks.UsageError, match="TMPDIR="):
        notebooks.short_folder(limit=1)


def test_a_notebook_finds_runs_in_a_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest one that has them; what is here comes first; absolute paths mean themselves."""
    inner = tmp_path / "project" / "analysis" / "mine"
    inner.mkdir(parents=True)
    runs = tmp_path / "project" / "outputs" / "beta"
    write_run(runs, 0)
    for place in (inner, inner.parent, inner.parents[1]):
        monkeypatch.chdir(place)
        assert frames.near("outputs/beta") == runs and len(frames.load(frames.near("outputs/beta"))) == 1
    (inner / "outputs" / "beta").mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert frames.near("outputs/beta") == inner / "outputs" / "beta"
    assert frames.near(runs) == runs and frames.near("nowhere") == Path("nowhere")


@pytest.mark.parametrize("notebook", notebooks.notebooks(), ids=lambda n: n.name)
def test_every_notebook_looks_above(notebook: notebooks.Notebook) -> None:
    """By the one call that does."""
    code = "\n".join(notebooks.source(c) for c in notebook.content["cells"] if c["cell_type"] == "code")
    assert "(frames.near(" in code and "frames.load(directory)" not in code
