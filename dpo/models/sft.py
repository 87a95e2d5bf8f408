"""The stage before DPO: supervised fine-tuning whose result is the start, and so the reference, of every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from dpo.cache import build_once, key
from dpo.data.ends import save_tokenizer
from dpo.data.tokens import TokenPair, content_hash
from dpo.models.adapters import Lora
from dpo.models.fit import Example, fit
from dpo.models.limits import check_ids, check_texts, row_lengths
from dpo.models.pretrained import load_model
from dpo.ranges import Epochs, Range, Rank, Seed, StartRate


class Stage:
    """`start(...)` returns the folder of the weights that DPO starts from.

    Where it does not read its pairs, nobody loads and tokenises the data set a second time for it.
    """

    reads_pairs = True

    def start(self, base: Any, pairs: Sequence[TokenPair], tokenizer: Any, cache: Path, device: torch.device) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class NoSft(Stage):
    """DPO starts from the base itself."""

    reads_pairs = False

    def start(self, base: Any, pairs: Sequence[TokenPair], tokenizer: Any, cache: Path, device: torch.device) -> str:
        return base.folder(cache)


@dataclass(frozen=True)
class Sft(Stage):
    """Train on the answers of the unperturbed training pairs: the chosen ones, or both sides alike.

    `side` is "chosen" or "both"; `lora_r` null trains every weight, a number trains adapters of that rank on
    all linear layers and merges them. Its seed is its own: a run's seed, beta and loss never reach it.
    """

    side: Literal["chosen", "both"]
    epochs: Epochs
    lr: StartRate
    batch_size: Annotated[int, Range(1, 4096)]
    lora_r: Rank | None
    seed: Seed

    def start(self, base: Any, pairs: Sequence[TokenPair], tokenizer: Any, cache: Path, device: torch.device) -> str:
        folder = base.folder(cache)
        identity = (base.identity(cache), asdict(self), content_hash(pairs))
        path = cache / "models" / f"sft-{key(*identity)}"
        build_once(path, lambda unfinished: self._train(base, folder, pairs, tokenizer, device, unfinished))
        return str(path.absolute())

    def _train(
        self, base: Any, folder: str, pairs: Sequence[TokenPair], tokenizer: Any, device: torch.device, path: Path
    ) -> None:
        examples: list[Example] = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
        if self.side == "both":
            examples += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
        model = load_model(folder, "float32", base.attention, base.revision, base.trust_remote_code).to(device)
        check_ids(model, tokenizer, pairs, f"model.path={folder}")
        check_texts(model, row_lengths(pairs), "train.max_length")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if self.lora_r is None:
                model.requires_grad_(True)
            else:
                model = Lora(self.lora_r, 2 * self.lora_r, 0.0, "all_linear", "all", False).attach(model, self.seed)
            steps = -(-len(examples) * self.epochs // self.batch_size)
            title = f"supervised fine-tuning on {self.side} answers"
            fit(model, examples, steps, self.batch_size, self.lr, self.seed, tokenizer.pad_token_id, title)
        if self.lora_r is not None:
            model = model.merge_and_unload()
        model.to(dtype=torch.bfloat16 if base.dtype == "bfloat16" else torch.float32).save_pretrained(path)
        save_tokenizer(tokenizer, path)
