"""A folder that holds an adapter: the base that it belongs to, wherever that lies now, and the base's tokenizer."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from dpo.errors import UsageError
from dpo.json_files import read_object
from dpo.progress import remark
from dpo.saved_config import read_saved
from dpo.whereabouts import find, is_path

CONFIG = "adapter_config.json"


def config_of(path: str, revision: str | None = None, reachable: bool = False) -> Path | None:
    """The adapter_config.json of a folder or hub id; None for whole models. `reachable`: the hub may be asked."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / CONFIG if (folder / CONFIG).is_file() else None
    return config_on_hub(path, revision, reachable)


@functools.cache
def config_on_hub(path: str, revision: str | None, reachable: bool) -> Path | None:
    """The same for a hub id."""
    from transformers.utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(path, revision=revision, local_files_only=not reachable)
    except Exception:  # an id that cannot be found is said by whoever loads it
        return None
    return Path(found) if found else None


def base_of(config: Path) -> tuple[str, str | None]:
    """(path or hub id, revision) of the base that an adapter was trained on.

    A folder that is not where the adapter says is looked for beside the adapter's own folder and those above it, as
    after the renaming of an output root. Raises UsageError where it is nowhere.
    """
    said: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    name = said.get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{config}: names no base model; put its path or hub id into base_model_name_or_path")
    if not is_path(name):
        return name, said.get("revision")
    recorded = Path(name).expanduser()
    found = find(recorded, config, ("config.json", CONFIG))
    if found is None:
        known = start_of_run(config).get("start_hash")
        raise UsageError(
            f"{config.parent}: its adapter belongs on the model in {name}"
            f"{f' (weights {known[:16]})' if known else ''}, which is not there; "
            f"bring it back, or write where it is now into base_model_name_or_path of {CONFIG}"
        )
    if found != recorded.absolute():
        remark(f"{config.parent}: the adapter's base is no longer in {name}; read from {found}")
    return str(found), said.get("revision")


def start_of_run(config: Path) -> dict[str, Any]:
    """The provenance of the run whose checkpoint this adapter is, with its model.dtype; empty for other adapters."""
    run = config.parent.parent
    if not (run / "provenance.json").is_file() or not (run / "run.yaml").is_file():
        return {}
    known = read_object(run / "provenance.json")
    return known | {"dtype": read_saved(run / "run.yaml")["model"].get("dtype")}
