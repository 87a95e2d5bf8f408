"""The parts of a decoder that cost time beside its matrix products, with hand-written backwards.

Each computes what the module of transformers or peft that it stands in for computes, in fewer passes over memory
and with less kept for the backward. `quicken` puts them in place of the modules of a model; whatever a module does
that is not covered here (dropout, DoRA, a merged adapter, generation with a cache) it does as before.

Shapes: N tokens, D width in, E width out, R rank, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpo.attention import ACTIVE, TreeAttention
from dpo.block import Block, Layer, Line, Lines, by_norm, normed, rotated, rotated_backward, signed

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
SILU = ("SiLU", "SiLUActivation")
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")


def asked_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast gives a matrix product of `x` here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def cast(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """A module's weight in `dtype`; a frozen one is cast once and kept, since autocast would cast it at every use."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if weight.dtype == dtype or weight.requires_grad:
        return weight.to(dtype)
    kept = module.__dict__.get("_cast")
    if kept is None or kept[0] != (weight.data_ptr(), weight._version, dtype):
        kept = module.__dict__["_cast"] = ((weight.data_ptr(), weight._version, dtype), weight.detach().to(dtype))
    return kept[1]


class RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), computed in float32 and put out in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        out_ND, root_N1 = normed(x_ND, weight_D, eps, dtype)
        ctx.save_for_backward(x_ND, weight_D, root_N1)
        return out_ND

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_ND, weight_D, root_N1 = ctx.saved_tensors
        unit_ND = x_ND.float() * root_N1
        by_x = by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (grad_ND.float() * unit_ND).flatten(0, -2).sum(0).to(weight_D.dtype)
        if ctx.needs_input_grad[0]:
            by_x = by_norm(grad_ND, unit_ND, weight_D, root_N1).to(x_ND.dtype)
        return by_x, by_weight, None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate_NE: Tensor, up_NE: Tensor) -> Tensor:
        ctx.save_for_backward(gate_NE, up_NE)
        return F.silu(gate_NE).mul_(up_NE)

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate_NE, up_NE = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(grad_NE * up_NE, gate_NE)
        return by_gate, F.silu(gate_NE).mul_(grad_NE)


class LowRank(torch.autograd.Function):
    """A frozen linear layer and its adapter as one operation; a_RD and b_ER are the line's, given for the graph."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, line: Line, a_RD: Tensor, b_ER: Tensor) -> Tensor:
        out_NE, thin_NR = line.forward(x_ND)
        ctx.line = line
        ctx.save_for_backward(x_ND, thin_NR)
        return out_NE

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not ctx.needs_input_grad[0]:
            return None, None, *ctx.line.adapter_backward(grad_NE, *ctx.saved_tensors)[1]
        by_x, by_adapter = ctx.line.backward(grad_NE, *ctx.saved_tensors)
        return by_x, None, *by_adapter


class Rotate(torch.autograd.Function):
    """Rotary positions: x cos + rotate_half(x) sin, for rows x_NHD of N tokens."""

    @staticmethod
    def forward(ctx: Any, x_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        sin_ND = signed(sin_ND)
        ctx.save_for_backward(cos_ND, sin_ND)
        return rotated(x_NHD, cos_ND, sin_ND)

    @staticmethod
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cos_ND, sin_ND = ctx.saved_tensors
        return rotated_backward(grad_NHD, cos_ND, sin_ND), None, None


class Norm(nn.Module):
    """Stands in for an RMSNorm that feeds linear layers only."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        dtype = asked_dtype(hidden_states)
        return RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon, dtype)


class Mlp(nn.Module):
    """Stands in for a SwiGLU block."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.down_proj(SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))


class FrozenLinear(nn.Module):
    """Stands in for a linear layer: frozen, its weight is cast once."""

    def forward(self: Any, x: Tensor) -> Tensor:
        dtype = asked_dtype(x)
        if self.weight.requires_grad or dtype == self.weight.dtype:
            return F.linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), cast(self, dtype), bias)


class LoraLinear(nn.Module):
    """Stands in for peft's LoRA on a frozen linear layer: one adapter, no dropout at work, nothing merged."""

    def forward(self: Any, x: Tensor, *more: Any, **named: Any) -> Tensor:
        line = None if more or named else line_of(self, asked_dtype(x))
        if line is None or not line.adapter:
            return super().forward(x, *more, **named)
        with torch.autocast(x.device.type, enabled=False):
            out = LowRank.apply(x.to(line.weight_ED.dtype).flatten(0, -2), line, *line.adapter)
        return out.view(*x.shape[:-1], -1)


def trained(module: nn.Module) -> bool:
    """Whether a gradient by the module's weight is wanted."""
    return module.weight.requires_grad and torch.is_grad_enabled()  # type: ignore[return-value]


def line_of(module: nn.Module, dtype: torch.dtype) -> Line | None:
    """What a linear layer computes if it is frozen and its adapter, if any, is one plain LoRA; else None."""
    lora: Any = module
    base: Any = getattr(module, "base_layer", module)
    known: bool = type(base) is nn.Linear or isinstance(base, FrozenLinear)  # others may read their weight otherwise
    if not known or trained(base):
        return None
    bias = None if base.bias is None else base.bias.to(dtype)
    if base is module:
        return Line(cast(base, dtype), bias)
    if not isinstance(module, LoraLinear) or lora.merged:
        return None
    if lora.disable_adapters:
        return Line(cast(base, dtype), bias)
    name = lora.active_adapters[0] if len(lora.active_adapters) == 1 else None
    if name not in lora.lora_A or name in lora.lora_variant:
        return None
    a, b, dropout = lora.lora_A[name], lora.lora_B[name], lora.lora_dropout[name]
    # a stacked sweep's own module in the adapter's place computes for itself
    plain = type(a) is nn.Linear and type(b) is nn.Linear and b.bias is None
    idle = isinstance(dropout, nn.Identity) or not dropout.training or dropout.p == 0
    return Line(cast(base, dtype), bias, (a.weight, b.weight), lora.scaling[name]) if plain and idle else None


class Attention(nn.Module):
    """Stands in for an attention block with rotary positions where it reads a token tree on a CPU."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None]:
        active = ACTIVE.get()
        if active is None or active.flex:
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **named)
        width = self.head_dim
        shape = (hidden_states.shape[1], -1, width)
        q, k, v = (layer(hidden_states).view(shape) for layer in (self.q_proj, self.k_proj, self.v_proj))
        cos, sin = (x[0].to(v.dtype) for x in position_embeddings)
        q, k = Rotate.apply(q.to(v.dtype), cos, sin), Rotate.apply(k.to(v.dtype), cos, sin)
        window = window_of(self)
        plans = active.tree.plan(q.shape[1], k.shape[1], window, v.dtype)
        flat = (x.reshape(-1, width) for x in (q, k, v))
        out = TreeAttention.apply(*flat, plans, self.scaling, None)
        return self.o_proj(out.view(*hidden_states.shape[:-1], -1)), None


def window_of(module: Any) -> int | None:
    """The sliding window of an attention block, or None: Mistral's is in its config, Qwen's on the block itself."""
    if type(module).__name__.endswith("MistralAttention"):
        return module.config.sliding_window
    return getattr(module, "sliding_window", None)


class DecoderLayer(nn.Module):
    """Stands in for a whole block of the Llama kind where it reads a token tree on a CPU and only adapters train."""

    def forward(self: Any, hidden_states: Tensor, *more: Any, **named: Any) -> Tensor:
        layer = layer_of(self, hidden_states, named.get("position_embeddings"))
        if layer is None:
            return super().forward(hidden_states, *more, **named)  # type: ignore[no-any-return]
        factors = [factor for line in layer.lines for factor in line.adapter]
        with torch.autocast(hidden_states.device.type, enabled=False):
            return Block.apply(hidden_states[0], layer, *factors)[None]


def layer_of(module: Any, hidden_1ND: Tensor, positions: tuple[Tensor, Tensor] | None) -> Layer | None:
    """What a decoder layer computes along the active tree; None where `Block` does not cover it."""
    active = ACTIVE.get()
    norms = module.input_layernorm, module.post_attention_layernorm
    if active is None or active.flex or positions is None or any(map(trained, norms)):
        return None
    attention, mlp, dtype = module.self_attn, module.mlp, asked_dtype(hidden_1ND)
    stood_in = (Attention, Mlp, Norm, Norm)
    if not all(map(isinstance, (attention, mlp, *norms), stood_in)):
        return None  # a part has code of its own
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    found = [line_of(part, dtype) for part in (*parts, mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    plain = [line for line in found if line is not None]
    if len(plain) < len(found) or type(mlp.act_fn).__name__ not in SILU:
        return None
    lines = Lines(*plain)
    width = attention.head_dim
    heads, keys = (len(line.weight_ED) // width for line in (lines.q, lines.k))
    cos_NW, sin_NW = active.tree.once(
        ("rotary", id(positions), dtype), lambda: (positions[0][0].to(dtype), signed(positions[1][0]).to(dtype))
    )
    return Layer(
        lines=lines,
        norm_D=norms[0].weight,
        mlp_norm_D=norms[1].weight,
        eps=(norms[0].variance_epsilon, norms[1].variance_epsilon),
        plans=active.tree.plan(heads, keys, window_of(attention), dtype),
        scaling=attention.scaling,
        cos_NW=cos_NW,
        sin_NW=sin_NW,
        kept_M=active.kept_M if attention.layer_idx == module.self_attn.config.num_hidden_layers - 1 else None,
    )


def quicken(model: nn.Module) -> None:
    """Put the parts above in place of what they stand in for. Weights, names and states stay as they are."""
    for name, module in model.named_modules():
        kind, own = type(module).__name__, name.rsplit(".", 1)[-1]
        known = type(module).__module__.startswith(("transformers.", "torch.", "peft."))
        if not known or "forward" in vars(module):
            continue  # code of its own under a known name may compute something else
        if kind in NORMS and own not in ("q_norm", "k_norm"):
            stand_in(module, Norm)
        elif kind in MLPS and type(module.act_fn).__name__ in SILU:
            stand_in(module, Mlp)
        elif kind in ATTENTIONS:
            stand_in(module, Attention)
        elif kind in LAYERS:
            stand_in(module, DecoderLayer)
        elif type(module) is nn.Linear and "lora_" not in name and own != "lm_head":
            stand_in(module, FrozenLinear)
        elif kind == "Linear" and type(module).__module__ == "peft.tuners.lora.layer":
            stand_in(module, LoraLinear)


def stand_in(module: nn.Module, part: type[nn.Module]) -> None:
    """Make a module of its class and of `part`, whose forward goes first."""
    module.__class__ = type(f"Quick{type(module).__name__}", (part, type(module)), {})
