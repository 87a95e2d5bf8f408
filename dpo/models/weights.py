"""Weights that fill a model: what a folder lacks, and what it holds beside, is an error by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

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
    hint: str | None = None,
) -> None:
    """Raise UsageError, in one line, unless all three are empty; `shapes` are (name, in the files, in the model).

    `hint` says what to do where the names themselves do not tell.
    """
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
        raise UsageError(
            f"{path}: its files do not fill {kind}: {', '.join(said)}; {hint or advice(missing, unexpected)}"
        )


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
    from peft import PeftConfig, PeftModel

    how = PeftConfig.from_pretrained(path, revision=revision)
    if how.is_prompt_learning:
        raise UsageError(
            f"{path}: a {how.peft_type.value} adapter changes no weights, so none can be merged; give a LoRA"
        )
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
    missing, unexpected = list(map(plain, found.missing_keys)), list(map(plain, found.unexpected_keys))
    if not missing:  # what peft wrote a second time, for embeddings that it saves in any case
        unexpected = [name for name in unexpected if not re.search(r"\.(modules_to_save|token_adapter)\.", name)]
    twice = "base_model.model.base_model."
    hint = (
        "it was made for another model, or saved in part: put its base into base_model_name_or_path, or save it again"
    )
    if any(twice in name for name in unexpected):
        hint = f"names begin with {twice!r}, since a model with an adapter was wrapped again: save the inner one"
    refuse_unfilled(path, f"an adapter of {type(base).__name__}", missing, unexpected, hint=hint)
    return model.eval()


def merged(model: Any) -> Any:
    """The base of an `adapted` model with the adapter in its weights.

    A head that is tied to the embeddings and of which the adapter changes one is a weight of its own afterwards.
    """
    embedding, head = (getattr(layer, "base_layer", layer) for layer in ends_of(model))
    if changed(model) and head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model = model.merge_and_unload()
    embedding, head = ends_of(model)
    if head is not None and head.weight is not embedding.weight:
        model.config.get_text_config(decoder=True).tie_word_embeddings = model.config.tie_word_embeddings = False
    return model.eval()


def ends_of(model: Any) -> tuple[Any, Any]:
    """The layers that read and that predict tokens."""
    return model.get_input_embeddings(), model.get_output_embeddings()


def changed(model: Any) -> bool:
    """Whether an adapter sits on one of them."""
    return any(hasattr(layer, "base_layer") for layer in ends_of(model))


def where(model: Any) -> str:
    """The path that a model was read from, or its class."""
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def plain(name: str) -> str:
    """A weight's name as it stands in an adapter's file."""
    return name.replace(".default.", ".")


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has tokenizer files of its own."""
    return any(folder.glob("tokenizer*")) or any(folder.glob("*vocab*")) or any(folder.glob("spiece.model"))
