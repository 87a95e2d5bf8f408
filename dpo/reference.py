"""The frozen reference: what it is, the proof that it stays so, and the shared store of its log-probs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpo.cache import build_once, key
from dpo.data.batches import PairBatch, collate, micro_batches
from dpo.data.tokens import TokenPair, content_hash, mismatch
from dpo.distributions import pad_rows
from dpo.errors import UsageError
from dpo.logps import NO_NEEDS, PairLogps, Scorer
from dpo.models.liger import fused
from dpo.models.pretrained import weights_hash
from dpo.progress import bar


@dataclass(frozen=True)
class StoredLogps:
    """What is known of the reference on a list of pairs: its log-probs of every completion token, in nats, on the CPU.

    flat_N holds pair 0's chosen tokens, its rejected tokens, pair 1's chosen tokens, ...; end_S the ends
    of those 2 x pairs stretches. `live` is the reference itself, for losses that read its distributions;
    `mismatched` the pairs whose answers are another pair's, and what is known of those.
    """

    flat_N: Tensor
    end_S: Tensor
    live: Reference | None = None
    mismatched: tuple[Sequence[TokenPair], StoredLogps] | None = None

    @staticmethod
    def nothing(live: Reference | None = None) -> StoredLogps:
        """No log-prob at all: the reference is never asked, or only live."""
        return StoredLogps(torch.empty(0), torch.empty(0, dtype=torch.long), live)

    def rows(self, batch: PairBatch) -> Tensor:
        """logp_RC of a batch, laid out as a fresh forward would return it."""
        sides = [2 * i for i in batch.pair_B.tolist()] + [2 * i + 1 for i in batch.pair_B.tolist()]
        stretches = [self.flat_N[(self.end_S[s - 1] if s else 0) : self.end_S[s]] for s in sides]
        return pad_rows(torch.cat(stretches).to(batch.length_R.device), batch.length_R)

    def logps(self, batch: PairBatch, needs: frozenset[str] = NO_NEEDS) -> PairLogps:
        """Summed log-probs of a batch; NaN where nothing is stored, so that reading them all the same fails."""
        if not self.end_S.numel():
            blank_RC = torch.full((len(batch.length_R), 1), torch.nan, device=batch.length_R.device)
            return PairLogps.from_tokens(blank_RC, batch.length_R)
        return PairLogps.from_tokens(self.rows(batch), batch.length_R, needs)


class Reference:
    """A model that is only ever read. `within` is entered around every forward (LoRA: the adapter is off)."""

    def __init__(
        self,
        model: Any,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
        precision: str = "fp32",
        layout: str = "padded",
    ) -> None:
        self.model = model
        self.within = within
        self.precision = precision
        self.layout = layout
        self.scorer = Scorer(model, layout)
        self.by_lengths = self.scorer.lengths is not None
        self.hash = weights_hash(model)

    @torch.no_grad()
    def score(self, batch: PairBatch) -> Tensor:
        """logp_RC of a batch, computed now."""
        device = next(self.model.parameters()).device
        with self.within(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.scorer(batch.to(device))

    @torch.no_grad()
    def logits(self, batch: PairBatch) -> Tensor:
        """logits_NV at the positions that predict a completion token, computed now."""
        device = next(self.model.parameters()).device
        with self.within(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.scorer.logits(batch.to(device))

    def known(
        self,
        pairs: Sequence[TokenPair],
        needs: frozenset[str],
        max_length: int,
        pad_id: int,
        token_budget: int,
        cache: Path,
    ) -> tuple[StoredLogps, list[bool]]:
        """What a loss with these `needs` may ask about the pairs, and for each list looked up whether it was stored.

        Without "reference" in the needs the reference does not run at all.
        """
        if "token_kl" in needs:
            return StoredLogps.nothing(self), []
        if "reference" not in needs:
            return StoredLogps.nothing(), []
        found, hit = self.stored(pairs, pad_id, token_budget, cache)
        if "mismatched" not in needs:
            return found, [hit]
        others = mismatch(pairs, max_length)
        theirs, hit_theirs = self.stored(others, pad_id, token_budget, cache)
        return replace(found, mismatched=(others, theirs)), [hit, hit_theirs]

    def stored(
        self, pairs: Sequence[TokenPair], pad_id: int, token_budget: int, cache: Path
    ) -> tuple[StoredLogps, bool]:
        """The pairs' log-probs from the store, and whether they were found there (else computed and kept).

        The key is the reference's weights, the precision, layout and kernels (others round elsewhere) and the pairs'
        token ids in their order (which tokenizer, template and truncation decide), and nothing else.
        """
        dtype = str(next(self.model.parameters()).dtype)
        parts = [
            self.hash,
            dtype,
            self.precision,
            content_hash(pairs),
            *([] if self.layout == "padded" else [self.layout]),
            *(["liger"] if fused(self.model) else []),
            *(["own lengths"] if self.by_lengths else []),
        ]
        path = cache / "reference" / f"{key(*parts)}.safetensors"

        def compute(unfinished: Path) -> None:
            save_file(self._compute(pairs, pad_id, token_budget), unfinished)

        computed = build_once(path, compute)
        tensors = load_file(path)
        return StoredLogps(tensors["flat_N"], tensors["end_S"]), not computed

    def _compute(self, pairs: Sequence[TokenPair], pad_id: int, token_budget: int) -> dict[str, Tensor]:
        sides: list[Tensor] = [torch.empty(0)] * (2 * len(pairs))
        groups = micro_batches(pairs, range(len(pairs)), token_budget)
        for group in bar(groups, "reference log-probs", "batch"):
            batch = collate(pairs, group, pad_id)
            logp_RC = self.score(batch).cpu()
            for row, length in enumerate(batch.length_R.tolist()):
                side, position = divmod(row, len(group))
                sides[2 * group[position] + side] = logp_RC[row, :length]
        for number, logp_C in enumerate(sides):
            if not bool(logp_C.isfinite().all()):
                name = pairs[number // 2].id
                raise FloatingPointError(f"the reference's log-probs of pair {name} are not finite; are its weights?")
        ends = torch.tensor([len(side) for side in sides]).cumsum(0)
        return {"flat_N": torch.cat(sides), "end_S": ends}

    def prove_frozen(self) -> None:
        """Raise RuntimeError if any weight changed since the start, or holds a gradient now."""
        if weights_hash(self.model) != self.hash:
            raise RuntimeError("the reference's weights changed during training")
        if any(p.grad is not None for name, p in frozen_parameters(self.model)):
            raise RuntimeError("a weight of the reference received a gradient")


def frozen_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a model that belong to its start: all but an attached adapter's."""
    return [(name, p) for name, p in model.named_parameters() if "lora_" not in name]


def check_embeddings(model: Any, tokenizer: Any, where: str) -> None:
    """Raise UsageError where a reference has no embedding for some of the policy's token ids."""
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UsageError(f"reference.path={where}: {rows} embeddings, and the policy's token ids go up to {largest}")


def check_vocabulary(policy_tokenizer: Any, reference_tokenizer: Any, where: str) -> None:
    """Raise UsageError where the reference would read the policy's token ids as other tokens."""
    ours, theirs = policy_tokenizer.get_vocab(), reference_tokenizer.get_vocab()
    if ours != theirs:
        differing = sum(theirs.get(token) != i for token, i in ours.items()) or abs(len(ours) - len(theirs))
        raise UsageError(
            f"reference.path={where}: its vocabulary differs from the policy's in {differing} tokens "
            f"({len(theirs)} against {len(ours)}); a reference must read the same token ids"
        )
