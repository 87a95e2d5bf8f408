"""The door: what composes, what is refused, and that every key is documented and read."""

import ast
import functools
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpo import config as door
from dpo.build import hints
from dpo.config import Config, conf_dir, dump, identity, load, parse
from dpo.errors import UsageError

CONF = conf_dir()
OPTIONS = sorted(
    (folder.name, path.stem) for folder in CONF.iterdir() if folder.is_dir() for path in folder.glob("*.yaml")
)


def needed(tmp_path: Path) -> list[str]:
    """Values for the keys that options leave open."""
    return [f"model.path={tmp_path}", f"dataset.path={tmp_path / 'x.jsonl'}", f"reference.path={tmp_path}"]


def overrides_for(group: str, option: str, tmp_path: Path) -> list[str]:
    """The option and what it leaves open."""
    text = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    open_keys = {f"{group}.{name}" for name, value in text.items() if value == "???"}
    return [f"{group}={option}", *(value for value in needed(tmp_path) if value.split("=")[0] in open_keys)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_builds(group: str, option: str, tmp_path: Path) -> None:
    """Globs conf/, so a new yaml is covered by being there."""
    assert isinstance(load(overrides_for(group, option, tmp_path)), Config)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_key_has_a_sentence_above_it(path: Path) -> None:
    """Option files explain each key; experiments and defaults lists explain themselves in their first line."""
    lines = path.read_text().splitlines()
    assert any(line.startswith("#") and line.endswith(".") for line in lines[:2])
    if path.parent.name == "experiment":
        return
    for above, line in itertools.pairwise(lines):
        name = line.split(":")[0]
        if ":" in line and not line.startswith(("#", " ", "defaults", "_target_")):
            assert above.startswith("# ") and above.endswith("."), f"{path}: {name}"


def loaded_names(tree: ast.AST) -> set[str]:
    """Every attribute or variable that code under `tree` reads, outside __post_init__."""
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
        for child in ast.walk(node)
    }
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load) and id(node) not in skipped
    }


@functools.cache
def names_read(path: Path) -> set[str]:
    """`loaded_names` of a file."""
    return loaded_names(ast.parse(path.read_text()))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_is_read_by_the_program(group: str, option: str, tmp_path: Path) -> None:
    """Each constructor argument of each option's class is loaded somewhere beyond its own checks."""
    built = load(overrides_for(group, option, tmp_path))
    kind = type(getattr(built, group, None) or built)
    sources = [Path(inspect.getfile(kind))] if "_target_" in built.plain.get(group, {}) else []
    sources += [path for path in Path(door.__file__).parent.rglob("*.py") if path not in sources]
    read = set().union(*map(names_read, sources))
    assert set(hints(kind)) - {"return", "plain"} <= read


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lrr=1", "unknown key optim.lrr (did you mean optim.lr?)"),
        ("+optim.lrr=1", "unknown key optim.lrr (did you mean optim.lr?)"),
        ("+sed=1", "unknown key sed (did you mean seed?)"),
        ("optim.lr=fast", "optim.lr='fast': must be a number"),
        ("train.batch_size=1.5", "train.batch_size=1.5: must be an integer"),
        ("loss=sigmod", "unknown option loss=sigmod (did you mean sigmoid?)"),
        ("los=ipo", "unknown key los (did you mean loss?)"),
        ("optim.schedule=cosin", "must be one of constant, linear, cosine"),
        ("beta.value=-0.1", "beta.value=-0.1: must be"),
        ("loss.label_smoothing=0.5", "loss.label_smoothing=0.5: must be"),
        ("model.dtype=bfloat16", "model.dtype=bfloat16 and train.precision=fp32"),
        ("reference.path=/no/such/folder", "reference.path=/no/such/folder: no such folder"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(override: str, said: str) -> None:
    """The rule, the value, the key to change."""
    with pytest.raises(UsageError) as caught:
        load([override])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_divides_by_beta_refuses_zero() -> None:
    """ipo has 1 / (2 beta); sigmoid takes beta 0 as the no-op it is."""
    load(["beta.value=0"])
    with pytest.raises(UsageError, match=r"beta.value=0.0: must be above 0"):
        load(["loss=ipo", "beta.value=0"])


def test_the_json_over_prose_experiment_is_the_default() -> None:
    """`dpo train` alone and experiment=json_over_prose are the same run."""
    assert identity(load([]).plain) == identity(load(["experiment=json_over_prose"]).plain)


@pytest.mark.parametrize("same", [["beta.value=1e-1"], ["tracker=disabled"], ["output_root=x"], ["cache_root=y"]])
def test_what_cannot_change_a_result_keeps_the_identity(same: list[str]) -> None:
    """Another spelling, tracker or folder is the same run."""
    assert identity(load(same).plain) == identity(load([]).plain)


@pytest.mark.parametrize("other", [["beta.value=0.2"], ["seed=1"], ["loss=ipo"], ["sft.seed=1"], ["optim.lr=1e-6"]])
def test_what_can_change_a_result_changes_the_identity(other: list[str]) -> None:
    """Every knob of a run is part of its name."""
    assert identity(load(other).plain) != identity(load([]).plain)


def test_run_yaml_is_the_configuration_again() -> None:
    """dump and parse are inverse."""
    plain = load(["loss=ipo", "adapter=dora", "seed=3"]).plain
    assert parse(yaml.safe_load(dump(plain))).plain == plain


def test_run_yaml_runs_by_config_dir(tmp_path: Path) -> None:
    """`--config-dir DIR --config-name run` composes the same run, and takes overrides."""
    (tmp_path / "run.yaml").write_text(dump(load(["seed=3"]).plain))
    assert load(["seed=4"], str(tmp_path), "run").plain == load(["seed=4"]).plain


def test_beta_defaults_to_the_usual_beta_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is given, beta.value is a fact of the loss's yaml."""
    usual = yaml.safe_load((CONF / "loss" / "ipo.yaml").read_text())["usual_beta"]
    assert load(["loss=ipo"]).plain["beta"]["value"] == usual
    assert load(["loss=ipo", "beta.value=0.7"]).plain["beta"]["value"] == 0.7


def test_library_rooms_import_neither_hydra_nor_wandb() -> None:
    """Only the door and the mirror do, and only when they are used."""
    package = Path(door.__file__).parent
    names = [
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n"
    code += "print([m for m in ('hydra', 'omegaconf', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=package.parent, check=True)
    assert done.stdout.strip() == "[]"
