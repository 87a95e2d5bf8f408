"""A run's settings: composed by Hydra, parsed once into typed plain objects. The only room that knows OmegaConf."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo.build import arguments, nearest
from dpo.errors import UsageError, check_folder, check_project

if typing.TYPE_CHECKING:
    from dpo.beta import Beta
    from dpo.data.audit import Audit
    from dpo.data.judges.base import Judge
    from dpo.data.pair import Source
    from dpo.data.perturb import Perturbation
    from dpo.losses.base import Loss
    from dpo.models.adapters import Adapter
    from dpo.models.pretrained import Pretrained
    from dpo.models.sft import Stage
    from dpo.models.tiny import Tiny

NOT_IDENTITY = (
    "audit",
    "judge",
    "rounds",
    "tracker",
    "output_root",
    "cache_root",
    "loss.usual_beta",
    "train.checkpoint_every",
    "train.print_every",
)
"""Keys that cannot change a run's result; two configurations that differ only here are one run."""


@dataclass(frozen=True)
class ReferenceChoice:
    """Which model the policy is held to: its own start, a model by path, or an embedded smaller one."""

    path: str | None
    revision: str | None
    embedded: Literal["small"] | None

    def __post_init__(self) -> None:
        if self.path is not None:
            check_folder("reference.path", self.path)
        if self.path is not None and self.embedded is not None:
            raise UsageError(f"reference.path={self.path} and reference.embedded={self.embedded}: one must be null")


@dataclass(frozen=True)
class Optim:
    """AdamW with betas (0.9, 0.999) and eps 1e-8; lr per step, warmup_fraction of all steps."""

    lr: float
    weight_decay: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_fraction: float
    max_grad_norm: float | None

    def __post_init__(self) -> None:
        positive("optim.lr", self.lr)
        if self.weight_decay < 0:
            raise UsageError(f"optim.weight_decay={self.weight_decay}: must be at least 0")
        if not 0 <= self.warmup_fraction < 1:
            raise UsageError(f"optim.warmup_fraction={self.warmup_fraction}: must be at least 0 and below 1")
        if self.max_grad_norm is not None:
            positive("optim.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True)
class Train:
    """Pairs per optimizer step, how many steps, in which precision, where, and when to evaluate and checkpoint."""

    epochs: int
    max_steps: int | None
    batch_size: int
    precision: Literal["fp32", "bf16"]
    device: str
    max_length: int
    max_merge_share: float
    token_budget: int
    eval_every: int
    checkpoint_every: int
    print_every: int
    threads: int | None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_length", "token_budget"):
            if getattr(self, name) < 1:
                raise UsageError(f"train.{name}={getattr(self, name)}: must be at least 1")
        for name in ("max_steps", "eval_every", "checkpoint_every", "print_every"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"train.{name}={getattr(self, name)}: must be at least 0")
        if self.threads is not None:
            positive("train.threads", self.threads)


@dataclass(frozen=True)
class Evaluate:
    """Answers at the start and the end: how many, how long, how sampled."""

    samples: int
    greedy: int
    temperature: float
    max_new_tokens: int
    kl_samples: int

    def __post_init__(self) -> None:
        for name in ("samples", "greedy", "kl_samples"):
            if getattr(self, name) < 0:
                raise UsageError(f"evaluate.{name}={getattr(self, name)}: must be at least 0")
        positive("evaluate.temperature", self.temperature)
        positive("evaluate.max_new_tokens", self.max_new_tokens)


@dataclass(frozen=True)
class Tracking:
    """The W&B mirror; `timeout` in seconds bounds its start and its end together."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    timeout: float

    def __post_init__(self) -> None:
        check_project("tracker.project", self.project)
        positive("tracker.timeout", self.timeout)


@dataclass(frozen=True)
class Config:
    """One run. `plain` is the same as nested plain values, resolved and normalised: what run.yaml holds."""

    seed: int
    output_root: str
    cache_root: str
    model: Pretrained | Tiny
    reference: ReferenceChoice
    sft: Stage
    adapter: Adapter
    dataset: Source
    perturb: Perturbation
    audit: Audit
    beta: Beta
    loss: Loss
    optim: Optim
    train: Train
    evaluate: Evaluate
    judge: Judge
    rounds: int
    tracker: Tracking
    plain: dict[str, Any]

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds={self.rounds}: must be at least 1")
        self.beta.check(self.loss, self.plain["loss"]["_target_"].rsplit(".", 1)[1])
        if self.plain["model"]["dtype"] == "bfloat16" and self.train.precision == "fp32":
            raise UsageError(
                "model.dtype=bfloat16 and train.precision=fp32: bf16 weights need train.precision=bf16, "
                "or set model.dtype=float32"
            )

    @property
    def begins_with_answers(self) -> bool:
        """Whether the start's own answers are judged before anything is trained."""
        return self.judge.from_start and not self.dataset.sampled

    @property
    def one_run(self) -> bool:
        """Whether these settings are a single run, and not rounds of sampling, judging and training."""
        return self.rounds == 1 and not self.begins_with_answers

    @property
    def reference_is_start(self) -> bool:
        """Whether the policy starts as its own reference."""
        return self.reference.path is None and self.reference.embedded is None


def positive(name: str, value: float) -> None:
    """Raise UsageError unless `value` is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name}={value}: must be a finite number above 0")


def conf_dir() -> Path:
    """The conf/ folder: $DPO_CONF, else in the installed package, else in the checkout."""
    package = Path(__file__).parent
    for folder in (os.environ.get("DPO_CONF"), package / "conf", package.parent / "conf"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    raise UsageError("no conf/ folder found: set DPO_CONF to one, or reinstall the package")


def load(overrides: list[str], config_dir: str | None = None, config_name: str = "config") -> Config:
    """Compose and parse; raises UsageError in one line for whatever is wrong with the overrides or files."""
    return parse(compose(overrides, config_dir, config_name))


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
        raise UsageError(str(error).strip().splitlines()[0]) from error


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


def parse_file(path: Path, **changed: Any) -> Config:
    """The configuration of a run.yaml; `changed` top-level keys are replaced (groups key by key)."""
    plain = read_plain(path)
    for name, value in changed.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    return parse(plain)


def read_plain(path: Path) -> dict[str, Any]:
    """The nested plain values of a run.yaml."""
    import yaml

    if not path.is_file():
        raise UsageError(f"{path}: no such file; is this a run directory?")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def parse(plain: dict[str, Any]) -> Config:
    """Typed objects from composed plain values; refuses unknown keys, missing keys and wrong types."""
    plain = dict(plain)
    usual = plain.get("loss", {}).get("usual_beta")
    plain["loss"] = {k: v for k, v in plain.get("loss", {}).items() if k != "usual_beta"}
    values, normal = arguments(Config, plain, "", skip=("plain",))
    normal["loss"]["usual_beta"] = usual
    return Config(**values, plain=normal)


def identity(plain: dict[str, Any]) -> str:
    """Eight hex digits of the SHA-256 of the normalised values that can change a result."""
    kept = json.loads(json.dumps(plain))
    for dotted in NOT_IDENTITY:
        *parents, last = dotted.split(".")
        node = kept
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def dump(plain: dict[str, Any]) -> str:
    """The text of run.yaml."""
    import yaml

    return (
        "# The resolved configuration; `dpo train --config-dir <this folder> --config-name run` runs it again.\n"
        + str(yaml.safe_dump(plain, sort_keys=False))
    )
