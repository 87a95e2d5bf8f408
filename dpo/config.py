"""A run's settings: parsed once into typed plain objects from what `compose.py` hands over."""

from __future__ import annotations

import hashlib
import json
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dpo.build import arguments, convert
from dpo.compose import compose
from dpo.compose import conf_dir as conf_dir  # part of the door
from dpo.disk import PLACES
from dpo.errors import UsageError, check_folder, check_project, check_tags, check_word
from dpo.ranges import Answers, Batch, Epochs, Part, Range, Rate, Seed, Share, Steps, Temperature, Tokens
from dpo.saved_config import read_saved
from dpo.tracking.environment import applied

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

    lr: Rate
    weight_decay: Annotated[float, Range(0, 1000)]
    schedule: Literal["constant", "linear", "cosine"]
    warmup_fraction: Part
    max_grad_norm: Annotated[float, Range(0, 1e12, above=True)] | None


@dataclass(frozen=True)
class Train:
    """Pairs per optimizer step, how many steps, in which precision, where, and when to evaluate and checkpoint."""

    epochs: Epochs
    max_steps: Steps | None
    batch_size: Batch
    precision: Literal["fp32", "bf16"]
    device: str
    max_length: Tokens
    max_merge_share: Share
    token_budget: Annotated[int, Range(1, 2**31 - 1)]
    layout: Literal["auto", "shared_prompt", "padded"]
    eval_every: Steps
    checkpoint_every: Steps
    print_every: Steps
    threads: Annotated[int, Range(1, 256)] | None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device):
            raise UsageError(f"train.device={self.device!r}: must be auto, cpu, cuda, cuda:<n> or mps")


@dataclass(frozen=True)
class Evaluate:
    """Answers at the start and the end: how many, how long, how sampled."""

    samples: Answers
    greedy: Answers
    temperature: Temperature
    max_new_tokens: Tokens
    kl_samples: Answers


@dataclass(frozen=True)
class Tracking:
    """The W&B mirror; `timeout` in seconds bounds its start and its end together."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    timeout: Annotated[float, Range(0, 3600, above=True)]

    def __post_init__(self) -> None:
        check_project("tracker.project", self.project)
        check_tags("tracker.tags", self.tags)
        for key, word in (("entity", self.entity), ("group", self.group)):
            if word is not None:
                check_word(f"tracker.{key}", word)


@dataclass(frozen=True)
class Config:
    """One run. `plain` is the same as nested plain values, resolved and normalised: what run.yaml holds."""

    seed: Seed
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
    rounds: Annotated[int, Range(1, 1000)]
    tracker: Tracking
    plain: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("output_root", "cache_root"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name}={getattr(self, name)!r}: must name a folder, such as . for this one")
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


def load(overrides: list[str], config_dir: str | None = None, config_name: str = "config") -> Config:
    """Compose and parse; raises UsageError in one line for whatever is wrong with the overrides or files."""
    return parse(in_environment(compose(overrides, config_dir, config_name)))


def in_environment(plain: dict[str, Any]) -> dict[str, Any]:
    """What a command composed, with what W&B's environment variables say where it is left open."""
    return plain | {"tracker": applied(plain["tracker"])} if "tracker" in plain else plain


def parse_file(path: Path, **changed: Any) -> Config:
    """The configuration of a run.yaml; `changed` top-level keys are replaced (groups key by key)."""
    plain = read_saved(path)
    for name, value in changed.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    return parse(plain)


def parse(plain: dict[str, Any]) -> Config:
    """Typed objects from composed plain values; refuses unknown keys, missing keys and wrong types."""
    plain = dict(plain)
    usual = None
    if isinstance(plain.get("loss"), dict):
        usual = convert(float | None, plain["loss"].get("usual_beta"), "loss.usual_beta")
        plain["loss"] = {k: v for k, v in plain["loss"].items() if k != "usual_beta"}
    values, normal = arguments(Config, plain, "", skip=("plain",))
    normal["loss"]["usual_beta"] = usual
    config = Config(**values, plain=normal)
    PLACES.update(output_root=Path(config.output_root), cache_root=Path(config.cache_root))
    return config


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
