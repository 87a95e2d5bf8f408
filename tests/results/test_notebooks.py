"""The notebooks of analysis/: stored bare, nothing but calls, and they run on small real runs without a network."""

import ast
import json
from pathlib import Path

import pytest

from dpo.errors import UsageError
from dpo.results import fits, frames, notebooks
from dpo.results.report import build
from tests.results.small_sweep import train, without_network

STORED = notebooks.notebooks()
ALLOWED = (
    ast.Module,
    ast.Import,
    ast.ImportFrom,
    ast.alias,
    ast.Assign,
    ast.Expr,
    ast.Call,
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.Load,
    ast.Store,
)
"""What a cell may consist of: imports, names for results, calls with names and constants."""


def code(notebook: notebooks.Notebook) -> list[dict]:
    return [cell for cell in notebook.content["cells"] if cell["cell_type"] == "code"]


def test_the_notebooks_that_the_readme_names_are_there() -> None:
    """One for each kind of question."""
    names = {"beta_sweep", "length_bias", "loss_variants", "calibration", "before_after", "run_card"}
    assert names <= {notebook.name for notebook in STORED}


@pytest.mark.parametrize("notebook", STORED, ids=lambda n: n.name)
def test_a_notebook_is_stored_without_outputs(notebook: notebooks.Notebook) -> None:
    """No outputs, no execution counts, no metadata of whoever ran it last."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(notebook))
    assert set(notebook.content["metadata"]) == {"dpo", "kernelspec", "language_info"}


@pytest.mark.parametrize("notebook", STORED, ids=lambda n: n.name)
def test_a_notebook_has_no_logic(notebook: notebooks.Notebook) -> None:
    """Imports of dpo.results and calls: no loop, no arithmetic, no function of its own, no path but the parameter."""
    for cell in code(notebook):
        for node in ast.walk(ast.parse(notebooks.source(cell))):
            assert isinstance(node, ALLOWED), f"{type(node).__name__} in {notebooks.source(cell)}"
            if isinstance(node, ast.Import):
                raise AssertionError("import dpo.results alone")
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("dpo.results", "dpo.results.figures")


@pytest.mark.parametrize("notebook", STORED, ids=lambda n: n.name)
def test_parameters_stand_in_the_first_code_cell(notebook: notebooks.Notebook) -> None:
    """Tagged as Jupyter's tools expect it, each with an example of a value, and replaced where they are given."""
    assert code(notebook)[0]["metadata"]["tags"] == ["parameters"]
    (name,) = notebooks.parameters(notebook)
    given = notebooks.with_parameters(notebook, {name: "a 'path'"})
    cell = next(c for c in given["cells"] if c["metadata"].get("tags"))
    assert ast.literal_eval(cell["source"].partition("= ")[2]) == "a 'path'"
    with pytest.raises(UsageError, match="no parameter nothing"):
        notebooks.with_parameters(notebook, {"nothing": "x"})


@pytest.mark.parametrize("notebook", STORED, ids=lambda n: n.name)
def test_a_notebook_names_a_rule_that_says_which_runs_it_fits(notebook: notebooks.Notebook) -> None:
    """The rules have names, and a sentence each."""
    assert fits.FITS[notebook.fits].__doc__


def test_the_rules_tell_a_sweep_of_beta_from_one_of_losses(small_sweep: Path, cache: Path, tmp_path: Path) -> None:
    """Beta that came with a loss was not swept."""
    for loss in ("sigmoid", "ipo"):
        train(tmp_path, cache, f"loss={loss}", f"beta.value={0.1 if loss == 'sigmoid' else 0.2}")
    swept, losses = frames.load(small_sweep), frames.load(tmp_path)
    assert fits.beta_swept(swept) and not fits.beta_swept(losses)
    assert fits.losses_vary(losses) and not fits.losses_vary(swept)


@pytest.mark.slow
def test_every_notebook_runs_on_small_real_runs_without_a_network(
    executed: dict[str, dict], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a fresh kernel that cannot open a network socket; each shows something, and says nothing on stderr.

    The small sweep's page has run those that fit it; the others, which are about losses, run here.
    """
    for loss in ("sigmoid", "ipo"):
        for seed in (0, 1):
            train(tmp_path / "losses", cache, f"loss={loss}", f"seed={seed}")
    without_network(tmp_path / "site", monkeypatch)
    others, ended = [n for n in STORED if n.name not in executed], []
    run = next(path for path in sorted((tmp_path / "losses" / "runs").iterdir()) if path.is_dir())
    values = {"directory": str(tmp_path / "losses" / "runs"), "run": str(run)}

    def given(notebook: notebooks.Notebook) -> dict[str, str]:
        return {name: values[name] for name in notebooks.parameters(notebook)}

    work = [(n, given(n)) for n in others]
    ran = executed | dict(zip((n.name for n in others), notebooks.execute(work, ended.append), strict=True))
    assert sorted(ran) == sorted(n.name for n in STORED) and sorted(ended) == sorted(n.name for n in others)
    for name, content in ran.items():
        outputs = [output for cell in content["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
        assert [o for o in outputs if o["output_type"] == "stream"] == [], name
        assert any("text/html" in o["data"] and "text/markdown" in o["data"] for o in outputs), name
    calls = json.loads(json.dumps(STORED[0].content))
    calls["cells"][-1] = {**code(STORED[0])[1], "source": "import socket; socket.create_connection(('127.0.0.1', 9))"}
    with pytest.raises(RuntimeError, match="no network here"):
        notebooks.execute([(notebooks.Notebook("calls", 0, "any_finished", calls), given(STORED[0]))], ended.append)


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    """Notebook and error in one line, and no kernel is left."""
    content = json.loads(json.dumps(STORED[0].content))
    code_cell = next(c for c in content["cells"] if c["cell_type"] == "code" and not c["metadata"])
    code_cell["source"] = "1 / 0"
    broken = notebooks.Notebook("broken", 0, "any_finished", content)
    with pytest.raises(RuntimeError, match=r"broken.ipynb: ZeroDivisionError: division by zero"):
        notebooks.execute([(broken, {})], lambda name: None)


def test_a_missing_extra_is_said_in_one_line(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nbclient the command says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "nbclient", None)
    with pytest.raises(UsageError, match=r"pip install 'dpo-lab\[report\]'"):
        build(small_sweep)
