"""Nested plain values that Hydra makes of conf/ and overrides, and its errors in one line. Knows OmegaConf."""

from __future__ import annotations

import functools
import os
import re
import typing
from pathlib import Path
from typing import Any

from dpo.build import nearest
from dpo.errors import UsageError, first_line


def conf_dir() -> Path:
    """The conf/ folder: $DPO_CONF, else in the installed package, else in the checkout."""
    package = Path(__file__).parent
    for folder in (os.environ.get("DPO_CONF"), package / "conf", package.parent / "conf"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    raise UsageError("no conf/ folder found: set DPO_CONF to one, or reinstall the package")


def compose(overrides: list[str], config_dir: str | None = None, config_name: str = "config") -> dict[str, Any]:
    """The composed and resolved configuration as nested plain values."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    folder = Path(config_dir).resolve() if config_dir else conf_dir()
    if not (folder / f"{config_name}.yaml").is_file():
        raise UsageError(f"{folder / config_name}.yaml: no such file")
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            composed = hydra.compose(config_name, overrides=overrides)
        return resolved(composed)
    except HydraException as error:
        raise UsageError(explain(error, folder, config_name)) from error
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(first_line(error)) from error


def with_components(loss: dict[str, Any]) -> None:
    """Put the whole settings of a loss where a sum names it: {loss: hinge, weight: 2} and what it sets beside."""
    for i, item in enumerate(loss.get("components", [])):
        if not isinstance(item, dict) or not {"loss", "weight"} <= set(item):
            raise UsageError(f"loss.components[{i}]={item}: must be like {{loss: sigmoid, weight: 0.8}}")
        if isinstance(item["loss"], str):
            named = compose([f"loss={item['loss']}"])["loss"]
            own = {k: v for k, v in item.items() if k not in ("loss", "weight")}
            del named["usual_beta"]
            loss["components"][i] = {"weight": item["weight"], "loss": named | own}


def resolved(composed: Any) -> dict[str, Any]:
    """Nested plain values of what Hydra composed, interpolations resolved; refuses a key left open."""
    from omegaconf import OmegaConf

    for key in OmegaConf.missing_keys(composed):
        raise UsageError(f"{key} is not set: give it as {key}=...")
    plain = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    with_components(plain.get("loss", {}))
    return plain


def explain(error: Exception, folder: Path, config_name: str) -> str:
    """Hydra's message in one line, with the nearest known name where one was misspelt."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.search(r"Could not override '([^']+)'|Could not delete[^']*'([^']+)'", str(error))
    if unknown:
        name = unknown[1] or unknown[2]
        return f"unknown key {name}{nearest(name, known_keys(str(folder), config_name))}"
    missing = re.search(r"Could not find '([^'/]+)/([^']+)'", str(error))
    if missing:
        options = [path.stem for path in sorted((folder / missing[1]).glob("*.yaml"))]
        return f"unknown option {missing[1]}={missing[2]}{nearest(missing[2], options)}; one of {', '.join(options)}"
    return " ".join(lines)


@functools.cache
def known_keys(folder: str, config_name: str) -> list[str]:
    """Every dotted key and group of the default configuration."""

    def walk(value: dict[str, Any], prefix: str) -> list[str]:
        return [
            key
            for name, child in value.items()
            for key in [prefix + name, *(walk(child, f"{prefix}{name}.") if isinstance(child, dict) else [])]
        ]

    groups = [path.name for path in Path(folder).iterdir() if path.is_dir()]
    return groups + walk(compose([], folder, config_name), "")
