"""Weights that fill a model: what a folder lacks, and what it holds beside, is an error by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpo.errors import UsageError

SHOWN = 3
"""Names that a message gives before it only counts."""
WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "pretrained_model.",
    "base_model.model.",
)
"""What wrappers (data parallelism, torch.compile, FSDP, DeepSpeed, TRL's value head, peft) put before every name."""
HEADS = re.compile(r"(^|\.)(score|classifier|v_head|value_head|reward_head)\.")
BUFFERS = re.compile(r"(^|\.)((attn|attention)\.bias|masked_bias|inv_freq|position_ids|causal_mask)$")
"""Tables that old files hold and that no weight is: causal masks, rotary frequencies, positions."""
OTHER_SENSES = re.compile(r"vision|visual|image|audio|multi_modal|mm_projector")


def fitted(auto: Any, path: str, **options: Any) -> Any:
    """The model of transformers' class `auto` from a folder or hub id, in evaluation mode, every weight read.

    Raises UsageError where files and model differ in names or shapes. Tied weights, what a family declares
    ignorable, and the weights of an image or sound tower beside a text model do not count.
    """
    model, info = auto.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    unexpected = [name for name in info["unexpected_keys"] if not BUFFERS.search(name)]
    if not any(OTHER_SENSES.search(name) for name, _ in model.named_modules()):
        unexpected = [name for name in unexpected if not OTHER_SENSES.search(name)]
    shapes = [(name, tuple(here), tuple(there)) for name, here, there in info["mismatched_keys"]]
    refuse_unfilled(path, type(model).__name__, info["missing_keys"], unexpected, shapes)
    return model.eval()


def refuse_unfilled(
    path: str,
    kind: str,
    missing: Iterable[str],
    unexpected: Iterable[str],
    shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
) -> None:
    """Raise UsageError, in one line, unless all three are empty; `shapes` are (name, in the files, in the model)."""
    missing, unexpected, shapes = sorted(missing), sorted(unexpected), sorted(shapes)
    said = []
    if missing:
        said.append(f"{len(missing)} weights are missing ({first(missing)})")
    if unexpected:
        said.append(f"{len(unexpected)} have no place in it ({first(unexpected)})")
    if shapes:
        name, here, there = shapes[0]
        said.append(f"{len(shapes)} have another shape ({name}: {list(here)} in the files, {list(there)} in the model)")
    if said:
        raise UsageError(f"{path}: its files do not fill {kind}: {', '.join(said)}; {advice(missing, unexpected)}")


def first(names: list[str]) -> str:
    """The first few names, and that there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def advice(missing: list[str], unexpected: list[str]) -> str:
    """What to do about it."""
    for prefix in WRAPPERS:
        if unexpected and all(name.startswith(prefix) for name in unexpected):
            return f"every name begins with {prefix!r}, which a wrapper put there: save the model inside it"
    if any(HEADS.search(name) for name in unexpected):
        return "they are the weights of a reward model or classifier: give the language model that it was made from"
    if missing:
        return "left so, random numbers would be trained: save the whole model there again"
    return "they would be left out without a word: save the model again in the form that its config.json names"


def adapted(base: Any, path: str, revision: str | None = None) -> Any:
    """`base` under a saved adapter (a folder or hub id), in evaluation mode, every weight of the adapter read.

    Raises UsageError where the adapter was made for another model, or its names fit none of its layers.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # named below
        try:
            model = PeftModel.from_pretrained(base, path, revision=revision)
            found = model.load_adapter(path, "default", revision=revision)  # again, for what it returns
        except KeyError as error:
            raise UsageError(
                f"{path}: the adapter's files lack {error.args[0]}; save the adapter there again"
            ) from error
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
            if not lines:
                raise
            others = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            raise UsageError(
                f"{path}: the adapter was made for another model than {where(base)} ({lines[0].rstrip('.')}{others}); "
                "put the right one's path in base_model_name_or_path of its adapter_config.json"
            ) from error
    kind = f"an adapter of {type(base).__name__}"
    refuse_unfilled(path, kind, map(plain, found.missing_keys), map(plain, found.unexpected_keys))
    return model.eval()


def where(model: Any) -> str:
    """The path that a model was read from, or its class."""
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def plain(name: str) -> str:
    """A weight's name as it stands in an adapter's file."""
    return name.replace(".default.", ".")


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has tokenizer files of its own."""
    return any(folder.glob("tokenizer*")) or any(folder.glob("*vocab*")) or any(folder.glob("spiece.model"))
