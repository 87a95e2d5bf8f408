"""A `_target_` names a class of this package or of an installed plug-in; whatever else it says is neither imported nor
called."""

import copy
import importlib
import importlib.metadata
import sys
import types
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from dpo import build
from dpo.compose import compose
from dpo.config import parse
from dpo.errors import UsageError

PLAIN = compose(["dataset=mixture", "perturb=length_bias", "loss=sum", "loss.components=[{loss: ipo, weight: 1}]"])
PLAIN["dataset"]["parts"] = {"a": {"_target_": "dpo.data.twelve.Twelve"}}
NODES = (
    "model",
    "sft",
    "adapter",
    "dataset",
    "dataset.parts.a",
    "perturb",
    "audit",
    "beta",
    "loss",
    "loss.components.0.loss",
    "judge",
    "optim",
)
WORDS = st.lists(st.from_regex(r"\A[A-Za-z_]\w{0,8}\Z"), min_size=1, max_size=4).map(".".join)


def planted(key: str, target: Any, **more: Any) -> dict[str, Any]:
    """A configuration with another `_target_` (or a group where there was a value) at a dotted key."""
    plain = copy.deepcopy(PLAIN)
    node: Any = plain
    for part in key.split("."):
        node = node[int(part) if part.isdigit() else part]
    node |= {"_target_": target, **more}
    return plain


@pytest.mark.parametrize("key", NODES)
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "IPython.utils.io.Tee",
        "pathlib.Path.write_text",
        "antigravity.x",
        "dpo.records.shutil.rmtree",
        "dpo.records.Path",
        "dpo.build.build",
        "dpo.launch.Watch",
        "dpo.__main__.main",
        "dpo.data.twelve.Pair",
        "dpo",
        "..x",
        "",
        7,
        ["os.system"],
        {"a": 1},
    ],
)
def test_what_is_no_class_of_the_kind_is_refused_in_one_line(key: str, target: Any, monkeypatch) -> None:
    """At every place where a group may stand, nested ones too; nothing outside the package is imported."""
    asked: list[str] = []
    watched = types.SimpleNamespace(import_module=lambda name: asked.append(name) or importlib.import_module(name))
    monkeypatch.setattr(build, "importlib", watched)
    with pytest.raises(UsageError) as caught:
        parse(planted(key, target))
    assert "_target_" in str(caught.value) and "\n" not in str(caught.value)
    assert all(name.partition(".")[0] in ("dpo", "builtins") for name in asked)  # builtins: where object is at home


@given(WORDS | st.text(max_size=20))
@example("sys.exit")
@example("dpo.data.twelve.Twelve.load")
def test_no_text_reaches_a_module_outside_the_package(text: str) -> None:
    """Whatever stands there: one line, and no module more than before but our own."""
    before = set(sys.modules)
    with pytest.raises(UsageError):
        build.class_of(text, build.hints(parse_kind())["dataset"], "dataset")
    assert all(name.partition(".")[0] == "dpo" for name in set(sys.modules) - before)


def parse_kind() -> type:
    """The class that a whole configuration becomes."""
    from dpo.config import Config

    return Config


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "__class__"])
def test_hydras_other_words_for_instantiation_are_unknown_keys(key: str) -> None:
    """They would change what is called, and with what."""
    with pytest.raises(UsageError, match=f"unknown key dataset.{key}"):
        parse(planted("dataset", PLAIN["dataset"]["_target_"], **{key: ["x"]}))


def test_a_value_that_becomes_a_group_builds_nothing() -> None:
    """A text, a number or a list that a run.yaml gives the shape of an object."""
    for key, name in (("optim", "lr"), ("train", "device"), ("tracker", "tags")):
        plain = copy.deepcopy(PLAIN)
        plain[key][name] = {"_target_": "os.system", "command": "true"}
        with pytest.raises(UsageError, match=f"{key}.{name}"):
            parse(plain)


def test_an_installed_plug_in_may_be_named(monkeypatch) -> None:
    """By an entry point of the group, for classes of the right kind in its package and nothing else."""
    from dpo.data.pair import Source

    module = types.ModuleType("my_sets")
    module.Mine = type("Mine", (Source,), {"__module__": "my_sets", "load": lambda self: None})
    monkeypatch.setitem(sys.modules, "my_sets", module)
    hint = build.hints(parse_kind())["dataset"]
    with pytest.raises(UsageError, match="installed plug-in"):
        build.class_of("my_sets.Mine", hint, "dataset")
    point = importlib.metadata.EntryPoint("mine", "my_sets", build.PLUGINS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == build.PLUGINS else [])
    assert build.class_of("my_sets.Mine", hint, "dataset") is module.Mine
    with pytest.raises(UsageError, match="installed plug-in"):
        build.class_of("my_sets_not.Mine", hint, "dataset")


def test_a_yaml_of_python_objects_builds_none(tmp_path) -> None:
    """YAML's own tags for objects are no way in either."""
    from dpo.config import parse_file

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(PLAIN) + f"x: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UsageError, match=r"run\.yaml"):
        parse_file(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("package", ["antigravity", "planted", "os"])
def test_a_file_names_no_package_to_search(package: str, tmp_path) -> None:
    """Hydra imports what pkg:// names; only folders may stand in a file."""
    before = set(sys.modules)
    (tmp_path / "run.yaml").write_text(f"hydra:\n  searchpath: ['pkg://{package}']\n")
    with pytest.raises(UsageError, match="a file may name folders only"):
        compose([], str(tmp_path), "run")
    assert all(name.partition(".")[0] == "dpo" for name in set(sys.modules) - before)
