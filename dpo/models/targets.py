"""Which layers of a model get an adapter: of the text model's blocks, by role or by name, experts included."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dpo.errors import UsageError

ROLES = {
    "qv": (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",)),
    "qkvo": (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        ("q_proj", "k_proj", "v_proj", "dense"),
        ("qkv_proj", "o_proj"),
        ("query_key_value", "dense"),
        ("c_attn", "attn.c_proj"),
    ),
}
"""Module names of a role in the layouts that models use; fused projections carry q, k and v in one."""
NUMBER = re.compile(r".*\.[^.]*\.(\d+)\.")
"""Where peft looks for a layer's number: in the last name of digits."""


@dataclass(frozen=True)
class Targets:
    """What peft is asked for: names of modules and of parameters (experts), and numbers of blocks (None: any)."""

    modules: list[str]
    parameters: list[str]
    layers: list[int] | None
    remarks: list[str]


def blocks_of(model: Any) -> nn.ModuleList:
    """The list of the text model's transformer blocks; a tower for images, or experts in a list, are none."""
    text = model.get_decoder() if hasattr(model, "get_decoder") else model
    lists = [module for module in text.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UsageError(
            f"{type(model).__name__}: has no list of blocks, so adapters and partial training do not know it"
        )
    config = getattr(model, "config", None)
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None) if config is not None else None
    return next((found for found in lists if len(found) == depth), max(lists, key=len))


def targets(model: Any, target: str, last_half: bool, plain: bool) -> Targets:
    """The layers that `target` means: a role (qv, qkvo, all_linear) or names, comma-separated.

    Roles mean the text model's blocks (the later half of them where `last_half`), names its head as well. Experts are
    3-D parameters, which only `plain` adapters (no dropout, no DoRA) can be put on.
    """
    blocks = blocks_of(model)
    depth = len(blocks)
    chosen = list(range(depth // 2 if last_half else 0, depth))
    stem = next(name for name, module in model.named_modules() if module is blocks)
    ours = tuple(f"{stem}.{i}." for i in chosen)
    names, experts = names_of(model, blocks, target)
    hits = [name for name, _ in model.named_modules() if ends_in(name, names)]
    wanted = [name for name in hits if name.startswith(ours)]
    if target not in ROLES and target != "all_linear":
        wanted += [name for name in hits if not last_half and belongs(model, name, stem)]
    alike = [name for name in hits if not last_half or ((at := NUMBER.match(name)) and int(at[1]) in chosen)]
    short = sorted(alike) == sorted(set(wanted)) or not wanted
    remarks = [] if short or last_half else [f"adapter.target={target}: only the text model's layers get adapters"]
    parameters = [f"{stem}.{i}.{name}" for i in chosen for name in experts if holds(blocks[i], name)]
    if parameters and plain:
        count = sum(model.get_parameter(name).numel() for name in parameters)
        remarks.append(
            f"adapter.target={target}: the experts of {len(chosen)} blocks get adapters too; a step then holds their "
            f"{count / 1e6:,.1f} million weights twice (adapter.target=qkvo leaves them out)"
        )
    elif parameters:
        remarks.append(
            f"adapter.target={target}: the experts ({', '.join(experts)}) get no adapter and stay as they are; "
            "adapters on them need adapter.dropout=0 and adapter.dora=false"
        )
    if target == "all_linear" and (left := left_out(blocks, experts)):
        remarks.append(
            f"adapter.target={target}: {', '.join(left)} (routers and the like, no linear layers) stay frozen"
        )
    if not last_half and all(name.startswith(ours) for name, _ in model.named_parameters() if ends_in(name, experts)):
        parameters = list(experts)
    layers = chosen if last_half and short else None
    return Targets(sorted(names) if short else sorted(set(wanted)), parameters if plain else [], layers, remarks)


def names_of(model: Any, blocks: nn.ModuleList, target: str) -> tuple[list[str], list[str]]:
    """(ends of module names, ends of parameter names within a block) that `target` means."""
    if target == "all_linear":
        from transformers.pytorch_utils import Conv1D

        linear = {
            name.rsplit(".", 1)[-1]
            for block in blocks
            for name, module in block.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        experts = {
            name: None for block in blocks for name, owner, dims in weights(block) if dims == 3 and expert(name, owner)
        }
        return sorted(linear), list(experts)
    modules = [name for name, _ in model.named_modules()]
    if target in ROLES:
        for layout in ROLES[target]:
            if all(any(name.endswith(f".{wanted}") for name in modules) for wanted in layout):
                return list(layout), []
        raise UsageError(f"adapter.target={target}: unknown layout; name the modules, such as q_proj,v_proj")
    given = [name.strip() for name in target.split(",")]
    found = [name for name in given if any(ends_in(module, [name]) for module in modules)]
    of_blocks = {name: None for block in blocks for name, _, dims in weights(block) if dims > 1}
    experts_named = [name for name in of_blocks if ends_in(name, [n for n in given if n not in found])]
    unknown = [n for n in given if n not in found and not any(ends_in(name, [n]) for name in experts_named)]
    if unknown:
        raise UsageError(f"adapter.target={target}: the model has no layer called {', '.join(unknown)}")
    return found, experts_named


def weights(block: nn.Module) -> Iterable[tuple[str, nn.Module, int]]:
    """(name, owner, dimensions) of a block's parameters that are no linear layer's, convolution's or norm's."""
    from transformers.pytorch_utils import Conv1D

    for prefix, owner in block.named_modules():
        if not isinstance(owner, (nn.Linear, Conv1D, nn.Embedding, nn.modules.conv._ConvNd)):
            for name, parameter in owner.named_parameters(recurse=False):
                yield f"{prefix}.{name}" if prefix else name, owner, parameter.dim()


def expert(name: str, owner: nn.Module) -> bool:
    """Whether a parameter is the stacked weights of experts."""
    return "expert" in f"{name} {type(owner).__name__}".lower()


def left_out(blocks: nn.ModuleList, experts: list[str]) -> list[str]:
    """Weights of the blocks that multiply like a linear layer's and belong to none: routers, experts stored flat."""
    found = {
        name: None
        for block in blocks
        for name, owner, dims in weights(block)
        if dims > 1 and name not in experts and re.search("rout|gate|expert", f"{name} {type(owner).__name__}".lower())
    }
    return [name for name in found if not name.endswith("bias")]


def ends_in(name: str, ends: Iterable[str]) -> bool:
    """Whether a dotted name is one of `ends` or ends in it."""
    return any(name == end or name.endswith(f".{end}") for end in ends)


def belongs(model: Any, name: str, stem: str) -> bool:
    """Whether a layer is of the text model: beside its blocks, or its head."""
    text = stem.rpartition(".")[0]
    return name.startswith(f"{text}." if text else "") or model.get_submodule(name) is model.get_output_embeddings()


def holds(block: nn.Module, name: str) -> bool:
    """Whether a block has a parameter of that name."""
    return name in dict(block.named_parameters())
