"""What a run begins from: device, weights, the SFT stage's start, the reference, and the base's own answers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpo.cache import build_once, key
from dpo.checked import checked
from dpo.config import Config
from dpo.data.ends import other_ends
from dpo.data.pair import Split
from dpo.data.templates import render
from dpo.data.tokens import TokenPair, tokenise
from dpo.errors import UsageError
from dpo.evaluate.samples import answer
from dpo.json_files import read_json, write_json
from dpo.models.liger import fuse, kernels_of
from dpo.models.pretrained import load_model, load_tokenizer
from dpo.models.tiny import Tiny
from dpo.reference import Reference, check_embeddings, check_vocabulary
from dpo.shared import own_copy
from dpo.tree import layout_of


def load(path: str, config: Config) -> Any:
    """A model from a folder or hub id, loaded the way the run's model is."""
    base = config.model
    how = (path, base.dtype, base.attention, base.revision, base.trust_remote_code)
    return quick(own_copy(key(*how), lambda: load_model(*how)), config)


def quick(model: Any, config: Config) -> Any:
    """The model with the kernels that the run's device and settings call for."""
    kernels, _ = kernels_of(config.model, model.config.model_type, pick_device(config.train.device))
    return fuse(model) if kernels == "liger" else model


def tokens(pairs: list[Any], tokenizer: Any, config: Config) -> tuple[list[TokenPair], dict[str, int]]:
    """Token pairs under the run's length limits, with their counts."""
    t, drop = config.train, config.dataset.drops_long_prompts
    return tokenise(pairs, tokenizer, t.max_length, t.max_merge_share, drop, Path(config.cache_root))


def sft_start(config: Config, base: Any, tokenizer: Any, cache: Path, device: torch.device) -> str:
    """What DPO starts from: the SFT stage on the data set's own training pairs, before any perturbation."""
    pairs: list[TokenPair] = []
    if config.sft.reads_pairs:
        pairs, _ = tokens(config.dataset.origin().load().train, tokenizer, config)
    return config.sft.start(base, pairs, tokenizer, cache, device)


def check_reference(config: Config, tokenizer: Any) -> None:
    """Refuse another reference that reads other token ids, before anything is trained."""
    path, revision = config.reference.path, config.reference.revision
    if path is not None:
        check_vocabulary(tokenizer, load_tokenizer(path, revision, config.model.trust_remote_code), path)


def make_reference(
    config: Config,
    model: Any,
    start: str,
    tokenizer: Any,
    cache: Path,
    device: torch.device,
    layout: str | None = None,
    pairs: Sequence[TokenPair] = (),
) -> Reference:
    """The start under the disabled adapter where the adapter shares it, else a frozen model of its own.

    `layout` is how the policy is read (None: as its config allows); a model from elsewhere is looked at on the pairs.
    """
    choice, precision = config.reference, config.train.precision
    layout = layout or layout_of(model.config, config.train.layout)[0]
    if config.reference_is_start and config.adapter.shares_start:
        return Reference(model, lambda: config.adapter.disabled(model), precision, layout)
    if config.reference_is_start:
        # made like the policy, so that both compute in the very same dtypes
        twin = config.adapter.attach(load(start, config), config.seed)
        return Reference(twin.requires_grad_(False).to(device), precision=precision, layout=layout)
    path = start
    if choice.path is not None:
        path = choice.path
    elif choice.embedded is not None:
        if not isinstance(config.model, Tiny):
            raise UsageError(
                f"reference.embedded={choice.embedded}: needs an embedded model; use reference.path instead"
            )
        small = replace(
            config.model, width=max(32, config.model.width // 64 * 32), layers=max(1, config.model.layers // 2)
        )
        path = sft_start(config, small, tokenizer, cache, device)
    revision = choice.revision if choice.path is not None else config.model.revision
    base = config.model
    frozen = quick(load_model(path, base.dtype, base.attention, revision, base.trust_remote_code), config)
    check_embeddings(frozen, tokenizer, path)
    where = f"reference.path={path}" if choice.path is not None else f"reference.embedded={choice.embedded}"
    layout = layout_of(frozen.config, config.train.layout)[0]
    if pairs:
        layout = checked(config, frozen.to(device), path, tokenizer, pairs, where).layout
    return Reference(frozen.requires_grad_(False).to(device), precision=precision, layout=layout)


def base_answers(config: Config, split: Split, tokenizer: Any, cache: Path, device: torch.device) -> dict[str, str]:
    """Greedy answers of the base, before any SFT stage, by prompt; kept in the cache for other runs."""
    prompts = [render(prompt, tokenizer) for prompt in split.prompts[: config.evaluate.greedy]]
    limit = config.evaluate.max_new_tokens
    folder = config.model.folder(cache)
    path = cache / "answers" / f"{key(config.model.identity(cache), prompts, limit, *other_ends(tokenizer))}.json"

    def compute(unfinished: Path) -> None:
        model = load(folder, config).to(device)
        given = answer(model, tokenizer, prompts, limit, None, 0, config.train.precision)
        write_json(unfinished, {a.prompt: a.text for a in given})

    build_once(path, compute)
    return dict(read_json(path))


@functools.cache
def default_threads() -> int:
    """What torch chose by itself when this process started to train."""
    return torch.get_num_threads()


def pick_device(name: str) -> torch.device:
    """auto is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"train.device={name}: must be auto, cpu, cuda or cuda:<n>") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"train.device={name}: there is no such device here; use cpu or auto")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"train.device={name}: {torch.cuda.device_count()} CUDA devices here; use cpu or auto")
    return device
