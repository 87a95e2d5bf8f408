"""Nested plain values that Hydra makes of conf/ and overrides, and its errors in one line. Knows OmegaConf."""

from __future__ import annotations

import copy
import functools
import os
import re
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.build import nearest
from dpo.errors import UsageError
from dpo.hydra_settings import refuse_unused, split


def conf_dir() -> Path:
    """The conf/ folder: $DPO_CONF, else in the installed package, else in the checkout."""
    package = Path(__file__).parent
    for folder in (os.environ.get("DPO_CONF"), package / "conf", package.parent / "conf"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    raise UsageError("no conf/ folder found: set DPO_CONF to one, or reinstall the package")


@dataclass(frozen=True)
class Primary:
    """The file a configuration is composed from, and where else its options are found.

    path        conf/config.yaml, a sweep file, or a run's run.yaml
    searchpath  a command's hydra.searchpath; None leaves the file's own
    launcher    a command's overrides of hydra/launcher and what belongs to it
    """

    path: Path
    searchpath: list[str] | None = None
    launcher: tuple[str, ...] = ()

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """The file as yaml."""
        import yaml

        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{self.path}: no YAML file: {' '.join(str(error).split())}") from error
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not isinstance(content, dict):
            raise UsageError(f"{self.path}: must hold keys with values")
        return content

    @property
    def settled(self) -> bool:
        """Whether it is a run's own run.yaml: every value is there, and no option is left to choose."""
        return not {"defaults", "hydra"} & set(self.content)

    @functools.cached_property
    def folders(self) -> list[str]:
        """Where options are looked for beyond the file's own folder, the shipped ones last."""
        from omegaconf import OmegaConf

        hydra = self.content.get("hydra")
        own = hydra.get("searchpath") if isinstance(hydra, dict) else None
        if self.searchpath is None and isinstance(own, list):
            listed = in_one_line(self, lambda: OmegaConf.to_container(OmegaConf.create(own), resolve=True))
            mine = [str(folder) for folder in typing.cast(list[Any], listed)]
            for folder in mine:
                if not local(folder):  # pkg:// imports the package, and a file may come from anybody
                    raise UsageError(f"{self.path}: hydra.searchpath={folder}: a file may name folders only")
        else:
            mine = self.searchpath or []
        conf = conf_dir()
        there = [folder for folder in mine if not local(folder) or Path(local(folder)).is_dir()]
        known = [] if self.path.parent == conf else [f"file://{conf}"]
        return [folder for folder in there if not local(folder) or Path(local(folder)).resolve() != conf] + known

    @property
    def sources(self) -> list[Path]:
        """Every local folder that options are looked for in."""
        own = [] if self.settled else [self.path.parent]
        return [*own, *(Path(local(folder)) for folder in self.folders if local(folder))]

    @property
    def all_shipped(self) -> bool:
        """Whether everything comes from conf/ and sweeps/ as they ship, whose settings a test looks through."""
        package = Path(__file__).parent
        roots = {package / "conf", package / "sweeps", package.parent / "conf", package.parent / "sweeps"}
        return self.settled or {source.resolve() for source in self.sources} <= roots

    def is_group(self, key: str) -> bool:
        """Whether an override of `key` chooses an option of a group, rather than setting a value."""
        return "/" in key or ("." not in key and any((source / key).is_dir() for source in self.sources))

    def composed(self, overrides: Sequence[str], with_hydra: bool = False) -> Any:
        """What Hydra composes of the file, with its own keys where they are asked for."""
        import hydra
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(self.path.parent), version_base="1.3"):
            given = [*searched(self.folders), *self.launcher, *overrides]
            return hydra.compose(self.path.stem, given, return_hydra_config=with_hydra)

    def base(self, choices: Sequence[Any]) -> Any:
        """The configuration with these options of groups chosen (parsed overrides), before any value is set."""
        from omegaconf import OmegaConf, open_dict

        if not self.settled:
            composed = self.composed([str(choice.input_line) for choice in choices], with_hydra=True)
            with open_dict(composed):
                node = composed.pop("hydra")
            if not self.all_shipped:
                refuse_unused(node, without_settings(), str(self.path))
            return composed
        base = OmegaConf.create(self.content)
        for choice in choices:
            name, option = choice.key_or_group, choice.value()
            if not isinstance(option, str) or choice.package is not None or "/" in name or name == "experiment":
                raise UsageError(f"{choice.input_line}: {self.path} holds a run's own settings; choose group=option")
            if choice.is_delete() or name not in base:
                raise UsageError(f"{choice.input_line}: {self.path} has every group of a run; write {name}={option}")
            shipped = Primary(conf_dir() / "config.yaml", self.searchpath)
            base[name] = shipped.composed([str(choice.input_line)])[name]
        OmegaConf.set_struct(base, True)
        return base


def local(folder: str) -> str:
    """The path of a search folder, "" for one that is no folder (pkg://)."""
    path = folder.removeprefix("file://")
    return "" if "://" in path else path


def searched(folders: Sequence[str]) -> list[str]:
    """The override that has Hydra look for options in these folders, whatever they are called."""
    return [f"hydra.searchpath=[{','.join(map(quoted, folders))}]"] if folders else []


def quoted(text: str) -> str:
    """A text as a value of an override, whatever signs are in it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


@functools.cache
def without_settings() -> Any:
    """Hydra's own keys as they are where nobody sets any."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(None, [], return_hydra_config=True).hydra


def compose(overrides: list[str], config_dir: str | None = None, config_name: str = "config") -> dict[str, Any]:
    """The composed and resolved configuration of one run as nested plain values."""
    given = split(overrides, grid=False)
    return composer(primary(config_dir, config_name, given.searchpath))(given.rest)


def primary(
    config_dir: str | None, config_name: str, searchpath: list[str] | None = None, launcher: tuple[str, ...] = ()
) -> Primary:
    """The file that a command names, by default conf/config.yaml; raises UsageError where it is none to run."""
    folder = Path(config_dir).resolve() if config_dir else conf_dir()
    path = folder / f"{config_name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if (folder.parent / "config.yaml").is_file() and (folder.parent / folder.name) == folder:
        raise UsageError(f"--config-name {config_name}: is an option of a group; give it as {folder.name}={path.stem}")
    return Primary(path, searchpath, launcher)


def composer(source: Primary) -> Callable[[Sequence[str]], dict[str, Any]]:
    """A function from overrides to the composed and resolved plain values.

    Hydra takes 0.1 s to compose, nearly all of it for the choice of groups; so that is done once for each choice,
    and value overrides are then applied by Hydra's own rules, as it would have done.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    bases: dict[tuple[str, ...], Any] = {}

    def composed(overrides: Sequence[str]) -> dict[str, Any]:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            if override.is_sweep_override():
                raise UsageError(f"{override.input_line}: several values; add -m, or quote it if it is one text")
        choices = [o for o in parsed if source.is_group(o.key_or_group) or o.package is not None]
        for choice in choices:
            several = isinstance(choice.value(), list) and choice.key_or_group == "experiment"
            if not (choice.is_delete() or several or isinstance(choice.value(), str | None)):
                raise UsageError(f"{choice.input_line}: must name one option of {choice.key_or_group}")
        groups = tuple(str(o.input_line) for o in choices)
        if groups not in bases:
            bases[groups] = source.base(choices)
        made = copy.deepcopy(bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in choices], made)
        return resolved(made)

    return lambda overrides: in_one_line(source, lambda: composed(overrides))


def with_components(loss: Any) -> None:
    """Put the whole settings of a loss where a sum names it: {loss: hinge, weight: 2} and what it sets beside."""
    components = loss.get("components") if isinstance(loss, dict) else None
    if not isinstance(components, list):
        return
    for i, item in enumerate(components):
        if not isinstance(item, dict) or not {"loss", "weight"} <= set(item):
            raise UsageError(f"loss.components[{i}]={item}: must be like {{loss: sigmoid, weight: 0.8}}")
        if isinstance(item["loss"], str):
            named = compose([f"loss={item['loss']}"])["loss"]
            own = {k: v for k, v in item.items() if k not in ("loss", "weight")}
            del named["usual_beta"]
            components[i] = {"weight": item["weight"], "loss": named | own}


def resolved(composed: Any) -> dict[str, Any]:
    """Nested plain values of what Hydra composed, interpolations resolved; refuses a key left open."""
    from omegaconf import OmegaConf

    for key in OmegaConf.missing_keys(composed):
        raise UsageError(f"{key} is not set: give it as {key}=...")
    plain = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    with_components(plain.get("loss", {}))
    return plain


def in_one_line(source: Primary, compose: Callable[[], Any]) -> Any:
    """What `compose` returns; whatever Hydra and OmegaConf raise becomes one line for people.

    They raise errors of every kind for settings that make no sense to them (TypeError, AttributeError, ...), and
    what is composed depends on the settings alone.
    """
    try:
        return compose()
    except UsageError:
        raise
    except RecursionError as error:
        raise UsageError(f"{source.path}: its defaults or interpolations lead back to themselves") from error
    except Exception as error:
        raise UsageError(re.sub(r"(\S{100})\S{100,}", r"\1...", explain(error, source))) from error


PLAINLY = {
    r"^Error (parsing|merging) override": "cannot take the override",
    r"\w+ raised while resolving interpolation:": "cannot resolve it:",
    r" See https://hydra.cc\S+ for details": "",
    r"^\w+(Error|Exception): ": "",
}
"""What Hydra and OmegaConf say, and how it reads."""


def explain(error: Exception, source: Primary) -> str:
    """Hydra's message in one line, with the nearest known name where one was misspelt."""
    said = " ".join(str(error.__cause__ if str(error) == "" and error.__cause__ else error).split())
    for theirs, ours in PLAINLY.items():
        said = re.sub(theirs, ours, said)
    launcher = re.search(r"Could not find 'hydra/([^']+)'", str(error))
    if launcher:
        hint = "joblib and submitit come with `pip install 'dpo-lab[launchers]'`"
        return f"hydra/{launcher[1]}: no such option of Hydra here; {hint}"
    unknown = re.search(r"Could not override '([^']+)'|Could not delete[^']*'([^']+)'", str(error))
    known = known_keys(source) if unknown else []
    if unknown and (name := unknown[1] or unknown[2]) not in known:
        return f"unknown key {name}{nearest(name, known)}"
    missing = re.search(r"Could not find '([^'/]+)/([^']+)'", str(error))
    if missing:
        files = [path for folder in source.sources for path in (folder / missing[1]).glob("*.yaml")]
        options = sorted({path.stem for path in files})
        return f"unknown option {missing[1]}={missing[2]}{nearest(missing[2], options)}; one of {', '.join(options)}"
    if type(error).__module__.startswith("omegaconf"):
        return said.partition(" full_key: ")[0]
    return said if type(error).__module__.startswith("hydra") else f"the settings make no configuration ({said})"


def known_keys(source: Primary) -> list[str]:
    """Every dotted key and group of the default configuration, as far as it composes."""

    def walk(value: dict[str, Any], prefix: str) -> list[str]:
        return [
            key
            for name, child in value.items()
            for key in [prefix + name, *(walk(child, f"{prefix}{name}.") if isinstance(child, dict) else [])]
        ]

    from omegaconf import OmegaConf

    groups = [path.name for folder in source.sources for path in folder.iterdir() if path.is_dir()]
    with suppress(Exception):
        whole = OmegaConf.to_container(Primary(conf_dir() / "config.yaml").composed([]), resolve=False)
        return groups + walk(typing.cast(dict[str, Any], whole), "")
    return groups
