"""Any causal language model of transformers, by hub id or local folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from dpo.cache import build_once, key
from dpo.data.ends import with_model_ends
from dpo.errors import UsageError, check_folder, first_line
from dpo.models import saved_adapter
from dpo.models.causal import check_causal
from dpo.models.weights import adapted, fitted, holds_tokenizer, merged
from dpo.progress import remark, say
from dpo.seals import NAME as SEAL
from dpo.seals import check
from dpo.whereabouts import absolute

Model = TypeVar("Model")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HINT = "model.path (or reference.path) needs a hub id within reach or a folder with weights and tokenizer"
Dtype = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
DAMAGED = "restore it from a copy, or remove it and give again the command that made it"
NOT_IDENTITY = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}


@dataclass(frozen=True)
class Pretrained:
    """A hub id or local folder, with how to load it. `path` may be a saved adapter: it is merged into its base.

    `chat_template` is a Jinja file used in place of the tokenizer's own template; None keeps the own.
    """

    path: str
    revision: str | None
    dtype: Dtype
    attention: Attention
    trust_remote_code: bool
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_folder("model.path", self.path)

    def folder(self, cache: Path) -> str:
        """Where the weights are: the path itself, absolute if it is a folder; a saved adapter's are merged once.

        What is trained next is trained on the merged weights, so they lie in the cache under a name of their own.
        """
        config = saved_adapter.config_of(self.path, self.revision, hub_in_reach(self.path))
        if config is None:
            return absolute(self.path)
        path = cache.absolute() / "models" / f"merged-{key(self.identity(cache))}"

        def merge(unfinished: Path) -> None:
            how = (self.dtype, self.attention, self.revision, self.trust_remote_code)
            load_model(self.path, *how).save_pretrained(unfinished)
            self.tokenizer(cache).save_pretrained(unfinished)

        build_once(path, merge)
        return str(path)

    def identity(self, cache: Path) -> list[str]:
        """What tells these weights from others without reading them: its files (and its base's) by size and time."""
        config = saved_adapter.config_of(self.path, self.revision, hub_in_reach(self.path))
        of_base = [] if config is None else [config.read_text(), *listing(saved_adapter.base_of(config)[0])]
        return [self.path, str(self.revision), self.dtype, *listing(self.path), *of_base]

    def tokenizer(self, cache: Path) -> Any:
        """The model's tokenizer, ready to use (with a pad token)."""
        return with_template(load_tokenizer(self.path, self.revision, self.trust_remote_code), self.chat_template)


def listing(path: str) -> list[str]:
    """A folder's files by name, size and time; empty for a hub id."""
    folder = Path(path).expanduser()
    files = sorted(file for file in folder.iterdir() if file.name != SEAL) if folder.is_dir() else []
    return [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]


def load_tokenizer(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A fast tokenizer with EOS and pad; raises UsageError in one line where the folder has none."""
    from transformers import AutoTokenizer

    check(Path(path).expanduser(), DAMAGED)
    config = saved_adapter.config_of(path, revision, hub_in_reach(path))
    if config is not None and not holds_tokenizer(config.parent):
        base, base_revision = saved_adapter.base_of(config)
        remark(f"{path}: the adapter has no tokenizer of its own; its base's is used, from {base}")
        return load_tokenizer(base, base_revision, trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, local_files_only=not hub_in_reach(path)
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, TypeError alike
        raise UsageError(f"no tokenizer could be loaded from {path}: {first_line(error)}; {HINT}") from error
    if not len(tokenizer) or not tokenizer("a", add_special_tokens=False).input_ids:
        raise UsageError(f"no tokenizer could be loaded from {path}: its vocabulary is empty; {HINT}")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of {path} has no end-of-sequence token; set one in its files")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config is not None and tokenizer.chat_template is None:
        tokenizer.chat_template = template_of_base(config, trust_remote_code)
    return with_model_ends(tokenizer, path, revision, local_only=not hub_in_reach(path))


def template_of_base(config: Path, trust_remote_code: bool) -> str | None:
    """The chat template of an adapter's base, for an adapter whose tokenizer has none; None where there is none."""
    try:
        template = load_tokenizer(*saved_adapter.base_of(config), trust_remote_code).chat_template
    except UsageError:
        return None
    if template is not None:
        remark(f"{config.parent}: the adapter's tokenizer has no chat template; its base's is used")
    return template


def with_template(tokenizer: Any, path: str | None) -> Any:
    """The tokenizer under the chat template of a file; as it is for None."""
    if path is not None:
        try:
            tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"model.chat_template={path}: cannot be read ({error}); give a Jinja file") from error
    return tokenizer


def load_model(
    path: str,
    dtype: str = "float32",
    attention: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The model in evaluation mode; an adapter folder comes merged into its base.

    Raises UsageError where it cannot be loaded or is not causal.
    """
    from transformers import AutoModelForCausalLM

    check(Path(path).expanduser(), DAMAGED)
    options = {
        "revision": revision,
        "dtype": DTYPES[dtype],
        "trust_remote_code": trust_remote_code,
        "local_files_only": not hub_in_reach(path),
    }

    def load(attention: str) -> Any:
        return fitted(AutoModelForCausalLM, path, attn_implementation=attention, **options)

    try:
        config = saved_adapter.config_of(path, revision, hub_in_reach(path))
        if config is None:
            model = attending(load, path, attention)
        else:
            base, base_revision = saved_adapter.base_of(config)
            model = load_model(base, dtype, attention, base_revision, trust_remote_code)
            run = saved_adapter.start_of_run(config)
            if run.get("dtype") == dtype:
                check_same("start", weights_hash(model), base, run, str(config.parent))
            with_room(model, config.parent)
            model = merged(adapted(model, path, revision))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"no model could be loaded from {path}: {first_line(error)}; {HINT}") from error
    check_causal(model, path)
    return model


def attending(load: Callable[[str], Model], path: str, attention: str) -> Model:
    """The model that `load` makes for this attention; for eager, with a note, where its code has no sdpa.

    Raises UsageError where another attention that was asked for is not to be had.
    """
    try:
        return load(attention)
    except UsageError:
        raise
    except (ValueError, ImportError) as error:
        if attention == "eager" or "ttention" not in str(error):
            raise
        if attention != "sdpa":
            why = first_line(error).split(". ")[0]
            line = f"model.attention={attention}: cannot be had for {path} ({why}); model.attention=eager always can"
            raise UsageError(line) from error
    model = load("eager")
    remark(f"the model of {path} has no sdpa attention; it is read with model.attention=eager, which is slower")
    return model


def with_room(model: Any, folder: Path) -> None:
    """Grow a base's embeddings where the adapter's own tokenizer has more tokens, as its training did."""
    if holds_tokenizer(folder):
        tokens = len(load_tokenizer(str(folder)))
        if tokens > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(tokens)


def check_same(role: str, now: str, place: str, provenance: dict[str, Any], where: str) -> None:
    """Raise UsageError where a run's start or reference (`role`), whose hash is `now`, is not the one it was made with.

    Under another transformers, whose configurations may have other keys, it is only a warning.
    """
    known = provenance.get(f"{role}_hash")
    if known in (None, now):
        return
    said = f"{where}: its {role} was the weights {known[:16]}, and what lies in {place} now is {now[:16]}"
    if provenance.get("versions", {}).get("transformers") != transformers_version():
        say(f"warning: {said}, or another transformers describes it in other words; numbers may not be the run's")
        return
    raise UsageError(f"{said}; bring the old weights back, or train again")


def transformers_version() -> str:
    """The installed transformers."""
    from transformers import __version__

    return str(__version__)


@functools.cache
def hub_in_reach(path: str) -> bool:
    """False where `path` is a folder, or the hub's host cannot be connected to within five seconds.

    Without it every file of a model is asked for with half a minute of retries. Behind a proxy nothing is tried.
    """
    if Path(path).expanduser().is_dir():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's architecture and weights; an attached adapter does not count.

    Equal for a base by itself and the same base under an adapter, whatever the device.
    """
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if k not in NOT_IDENTITY}  # type: ignore[operator, union-attr]
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(base_tensors(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """State of the model without its adapter, under the names it has without one."""
    state = model.state_dict()
    return {
        re.sub(r"(\.base_layer)+(?=\.)", "", name.removeprefix("base_model.model.")): tensor
        for name, tensor in state.items()
        if "lora_" not in name
    }
