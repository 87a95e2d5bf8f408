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

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
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
        wide_ND = x_ND.float()
        root_N1 = torch.linalg.vector_norm(wide_ND, dim=-1, keepdim=True).square_()
        root_N1 = root_N1.div_(x_ND.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_ND, weight_D, root_N1)
        return (wide_ND * root_N1).mul_(weight_D).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_ND, weight_D, root_N1 = ctx.saved_tensors
        unit_ND = x_ND.float() * root_N1
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (grad_ND.float() * unit_ND).flatten(0, -2).sum(0).to(weight_D.dtype)
        if not ctx.needs_input_grad[0]:
            return None, by_weight, None, None
        by_unit = grad_ND.float() * weight_D.float()
        along_N1 = (by_unit * unit_ND).mean(-1, keepdim=True)
        by_unit = by_unit.addcmul_(unit_ND, along_N1, value=-1).mul_(root_N1)
        return by_unit.to(x_ND.dtype), by_weight, None, None


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


class FrozenMlp(torch.autograd.Function):
    """down(silu(gate x) * up x) of three frozen linear layers without bias."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_ED: Tensor, up_ED: Tensor, down_DE: Tensor) -> Tensor:
        gate_NE, up_NE = x_ND @ gate_ED.t(), x_ND @ up_ED.t()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(gate_NE, up_NE, gate_ED, up_ED, down_DE)
        return F.silu(gate_NE).mul_(up_NE) @ down_DE.t()

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate_NE, up_NE, gate_ED, up_ED, down_DE = ctx.saved_tensors
        by_inner = grad_ND @ down_DE
        by_up = F.silu(gate_NE).mul_(by_inner)
        by_gate = torch.ops.aten.silu_backward(by_inner.mul_(up_NE), gate_NE)
        return (by_gate @ gate_ED).addmm_(by_up, up_ED), None, None, None


class LowRank(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with W frozen: an adapter's two thin products added in place."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_ED: Tensor, bias_E: Tensor | None, a_RD: Tensor, b_ER: Tensor, scale: float
    ) -> Tensor:
        thin_NR = x_ND @ a_RD.t().to(x_ND.dtype)
        out = F.linear(x_ND, weight_ED, bias_E).addmm_(thin_NR, b_ER.t().to(x_ND.dtype), alpha=scale)
        ctx.save_for_backward(x_ND, weight_ED, a_RD, b_ER, thin_NR)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_ND, weight_ED, a_RD, b_ER, thin_NR = ctx.saved_tensors
        by_thin = (grad_NE @ b_ER.to(grad_NE.dtype)).mul_(ctx.scale)
        by_b = (grad_NE.t() @ thin_NR).to(b_ER.dtype).mul_(ctx.scale)
        by_a = (by_thin.t() @ x_ND).to(a_RD.dtype)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = (grad_NE @ weight_ED).addmm_(by_thin, a_RD.to(grad_NE.dtype))
        return by_x, None, None, by_a, by_b, None


class Rotate(torch.autograd.Function):
    """Rotary positions: x cos + rotate_half(x) sin, for rows x_NHD of N tokens."""

    @staticmethod
    def forward(ctx: Any, x_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        ctx.save_for_backward(cos_ND, sin_ND)
        return rotated(x_NHD, cos_ND[:, None], sin_ND[:, None], 1.0)

    @staticmethod
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cos_ND, sin_ND = ctx.saved_tensors
        return rotated(grad_NHD, cos_ND[:, None], sin_ND[:, None], -1.0), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """The rotation, or with sign -1 its transpose (whose halves of `sin` swap places)."""
    half = x.shape[-1] // 2
    first, second = (slice(0, half), slice(half, None))
    out = x * cos
    to_first, to_second = (sin[..., first], sin[..., second]) if sign > 0 else (sin[..., second], sin[..., first])
    out[..., first].addcmul_(x[..., second], to_first, value=-sign)
    out[..., second].addcmul_(x[..., first], to_second, value=sign)
    return out


class Norm(nn.Module):
    """Stands in for an RMSNorm that feeds linear layers only."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        dtype = asked_dtype(hidden_states)
        return RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon, dtype)


class Mlp(nn.Module):
    """Stands in for a SwiGLU block."""

    def forward(self: Any, x: Tensor) -> Tensor:
        layers = (self.gate_proj, self.up_proj, self.down_proj)
        if not all(frozen(layer) for layer in layers):
            return self.down_proj(SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))
        dtype = asked_dtype(x)
        weights = [cast(layer, dtype) for layer in layers]
        with torch.autocast(x.device.type, enabled=False):
            return FrozenMlp.apply(x.to(dtype).flatten(0, -2), *weights).view(x.shape)


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
        base, active = self.base_layer, self.active_adapters
        name = active[0] if len(active) == 1 else None
        # another project's, or a stacked sweep's, own module in the adapter's place computes for itself
        plain = (
            name in self.lora_A
            and type(self.lora_A[name]) is type(self.lora_B[name]) is nn.Linear
            and name not in self.lora_variant
            and not (more or named)
        )
        if self.disable_adapters or self.merged or not plain or not isinstance(base, nn.Linear):
            return super().forward(x, *more, **named)
        a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        idle = isinstance(dropout, nn.Identity) or not dropout.training or dropout.p == 0
        if not idle or b.bias is not None or base.weight.requires_grad:
            return super().forward(x, *more, **named)
        dtype = asked_dtype(x)
        bias = None if base.bias is None else base.bias.to(dtype)
        weight, scale = cast(base, dtype), self.scaling[name]
        with torch.autocast(x.device.type, enabled=False):
            out = LowRank.apply(x.to(dtype).flatten(0, -2), weight, bias, a.weight, b.weight, scale)
        return out.view(*x.shape[:-1], -1)


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
        if active is None or hidden_states.device.type != "cpu":
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **named)
        width = self.head_dim
        shape = (hidden_states.shape[1], -1, width)
        q, k, v = (layer(hidden_states).view(shape) for layer in (self.q_proj, self.k_proj, self.v_proj))
        cos, sin = (x[0].to(v.dtype) for x in position_embeddings)
        q, k = Rotate.apply(q.to(v.dtype), cos, sin), Rotate.apply(k.to(v.dtype), cos, sin)
        window = window_of(self)
        plans = active[0].plan(q.shape[1], k.shape[1], window, v.dtype)
        flat = (x.reshape(-1, width) for x in (q, k, v))
        out = TreeAttention.apply(*flat, plans, self.scaling, None)
        return self.o_proj(out.view(*hidden_states.shape[:-1], -1)), None


def window_of(module: Any) -> int | None:
    """The sliding window of an attention block, or None: Mistral's is in its config, Qwen's on the block itself."""
    if type(module).__name__.endswith("MistralAttention"):
        return module.config.sliding_window
    return getattr(module, "sliding_window", None)


def frozen(layer: nn.Module) -> bool:
    """Whether a layer is one linear map without bias that is not trained and carries no adapter."""
    return isinstance(layer, nn.Linear) and layer.bias is None and not layer.weight.requires_grad


def quicken(model: nn.Module) -> None:
    """Put the parts above in place of what they stand in for. Weights, names and states stay as they are."""
    for name, module in model.named_modules():
        kind, own = type(module).__name__, name.rsplit(".", 1)[-1]
        if kind in NORMS and own not in ("q_norm", "k_norm"):
            stand_in(module, Norm)
        elif kind in MLPS and isinstance(module.act_fn, nn.SiLU):
            stand_in(module, Mlp)
        elif kind in ATTENTIONS:
            stand_in(module, Attention)
        elif type(module) is nn.Linear and "lora_" not in name and own != "lm_head":
            stand_in(module, FrozenLinear)
        elif kind == "Linear" and type(module).__module__ == "peft.tuners.lora.layer":
            stand_in(module, LoraLinear)


def stand_in(module: nn.Module, part: type[nn.Module]) -> None:
    """Make a module of its class and of `part`, whose forward goes first."""
    module.__class__ = type(f"Quick{type(module).__name__}", (part, type(module)), {})
