"""Random overrides through the real door: a configuration whose every number is in its range, or one line. `make fuzz`
draws more of them."""

import inspect
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpo.build import ByName, bare, hints, is_group, options_of
from dpo.compose import composer, conf_dir, primary
from dpo.config import Config, dump, identity, load, parse
from dpo.errors import UsageError
from dpo.ranges import Range

NUMBERS = (
    "0 -0.0 1 -1 -5 0.5 1.5 1e-300 1e-9 1e9 1e30 1e308 -1e308 1e999 2147483648 99999999999999999999 100000".split()
)
NUMBERS += ["nan", ".nan", "NaN", "inf", "-inf", "+inf", ".inf", "Infinity", "1_000", "0x10", "9" * 400, "1e400"]
TEXTS = ["", "''", "null", "None", "~", "true", "a=b", "'a=b'", "a b", "fast", "'\\n'", "größe", "😀", "x" * 5000]
TEXTS += ["'/no/such'", "'${seed}'", "${seed}", "${", "'${'", "${oc.env:NOPE}", "${oc.env:HOME}", "${x.y}", "???", "\\"]
TEXTS += [
    "\udcff",
    "'\udcff'",
    "'\x00'",
    "[/INST]",
    "2020-01-01",
    "1:30",
    "a,b",
    "1,2",
    "!!python/none",
    "&a",
    "*",
    "%",
]
SHAPES = [
    "[]",
    "[1,2]",
    "[nan]",
    "[[1]]",
    "{}",
    "{a:1}",
    "{a:{b:1}}",
    "[{a:1}]",
    "[sigmoid,ipo]",
    "{_target_:os.system}",
]
SHAPES += ["{_target_:1}", "choice(1,2)", "range(1,3)", "int(3.5)", "str(1)", "json_str([1])", "float(x)", "'[1,2]'"]
NASTY = [*NUMBERS, *TEXTS, *SHAPES]
OPTIONS = {
    folder.name: [p.stem for p in folder.glob("*.yaml")]
    for folder in conf_dir().iterdir()
    if folder.is_dir() and folder.name != "hydra"
}


def leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of every value and every group."""
    for name, value in plain.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")


def draws(seed: int, count: int) -> Iterator[list[str]]:
    """Choices of options with one to three nasty values over their keys."""
    generator, drawn = random.Random(seed), 0
    while drawn < count:
        chosen = {group: generator.choice(options) for group, options in OPTIONS.items() if generator.random() < 0.3}
        chosen.pop("experiment", None)
        base = [f"{group}={option}" for group, option in chosen.items()]
        open_keys = ["model.path=/tmp", "dataset.path=/tmp/x.jsonl", "reference.path=/tmp"]
        base += [key for key in open_keys if f"{key.split('.')[0]}" in chosen and needs(chosen, key)]
        try:
            keys = list(leaves(load(base).plain))
        except UsageError:  # options that exclude each other
            continue
        for _ in range(min(50, count)):
            drawn += 1
            yield [*base, *(override(generator, keys) for _ in range(generator.choice([1, 1, 1, 2, 3])))]


def needs(chosen: dict[str, str], key: str) -> bool:
    """Whether a chosen option leaves this key open."""
    group, name = key.split("=")[0].split(".")
    return f"{name}: ???" in (conf_dir() / group / f"{chosen[group]}.yaml").read_text()


def override(generator: random.Random, keys: list[str]) -> str:
    """One assignment, addition or deletion."""
    key = generator.choice(keys)
    mark = generator.choice(["", "", "", "", "", "+", "++", "~"])
    return mark + key + ("" if mark == "~" and generator.random() < 0.5 else "=" + generator.choice(NASTY))


def numbers(value: Any) -> Iterator[float]:
    """Every number in nested plain values."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from numbers(item)
    if isinstance(value, int | float):
        yield value


def attempt(compose: Callable[[list[str]], dict[str, Any]], overrides: list[str]) -> bool:
    """Whether the overrides make a configuration; a refusal is one line that names no class of Python's."""
    try:
        config = parse(compose(overrides))
    except UsageError as error:
        said = str(error)
        assert said.strip() and "\n" not in said and "Traceback" not in said and "Error:" not in said, said
        assert len(said) < 2000
        return False
    assert all(math.isfinite(x) for x in numbers(config.plain)), overrides
    assert parse(config.plain).plain == config.plain and identity(config.plain)
    dump(config.plain).encode()
    return True


@pytest.mark.filterwarnings("ignore")
def test_random_overrides_are_a_configuration_or_one_line() -> None:
    """$DPO_FUZZ says how many, and is the seed where it is given."""
    count = int(os.environ.get("DPO_FUZZ", 100))
    compose, taken = composer(primary(None, "config")), 0
    for overrides in draws(int(os.environ.get("DPO_FUZZ", 2)), count):
        try:
            taken += attempt(compose, overrides)
        except Exception as error:
            raise AssertionError(
                f"{type(error).__name__} for {[text[:200] for text in overrides]}: {error}"[:900]
            ) from None
    assert taken, "some overrides are harmless"


def fields(kind: Any, seen: set[Any]) -> Iterator[tuple[str, Any]]:
    """(name, alternative of its hint) of every setting of a class and of the classes in it."""
    for name, hint in hints(kind).items():
        for option in options_of(hint):
            inner = [a for a in getattr(bare(option), "__args__", ()) if bare(a) in (int, float)]
            yield from ((f"{kind.__name__}.{name}", item) for item in [option, *inner])


def test_every_number_of_every_setting_has_a_range() -> None:
    """So that a new key is given one: every class that an option of conf/ names, and the groups without a class."""
    kinds = {Config, *(hint for hint in hints(Config).values() if is_group(hint) and not issubclass(hint, ByName))}
    for group, options in OPTIONS.items():
        for option in options:
            text = (conf_dir() / group / f"{option}.yaml").read_text()
            for line in text.splitlines():
                if "_target_:" in line:
                    module, _, name = line.split(":")[1].strip().rpartition(".")
                    kinds.add(getattr(__import__(module, fromlist=[name]), name))
    without = {
        name
        for kind in kinds
        if inspect.isclass(kind)
        for name, option in fields(kind, set())
        if bare(option) in (int, float) and not any(isinstance(m, Range) for m in getattr(option, "__metadata__", ()))
    }
    assert not without


@pytest.mark.parametrize("value", ["nan", ".nan", "inf", "-inf", "1e999", "9" * 400, "{a:1}", "[1]", "x", "''", "null"])
@pytest.mark.parametrize("key", ["optim.lr", "sft.lr", "model.steps", "train.batch_size", "loss.sft_weight", "seed"])
def test_no_spelling_of_a_number_that_is_none_gets_through(key: str, value: str) -> None:
    """By key, in one line."""
    compose = COMPOSE.setdefault("default", composer(primary(None, "config")))
    with pytest.raises(UsageError, match=key.split(".")[0]):
        parse(compose([f"{key}={value}"]))


COMPOSE: dict[str, Callable[[list[str]], dict[str, Any]]] = {}


def test_the_folder_of_the_configuration_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused command leaves nothing behind."""
    from dpo.__main__ import main

    monkeypatch.chdir(tmp_path)
    for wrong in ("train.threads=100000", "model.layers=99999999999999999999", "evaluate.max_new_tokens=1e308"):
        assert main(["train", wrong]) == 2
    assert not list(tmp_path.iterdir())
