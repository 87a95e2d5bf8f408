"""Which tokens end an answer: one rule for training, sampling, the KL estimate and judging.

An answer ends with the first of: the tokenizer's EOS; the token with which the chat template ends a turn; every
eos_token_id of the model's generation_config.json and config.json that is a token of its own (an added one: never a
piece of ordinary text, which the defaults of a configuration may name by mistake). A trained answer holds exactly one
of them, last: the one that its template writes, else EOS.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.data.templates import apply_template, turn
from dpo.errors import UsageError

KEPT = "answer_ends"
"""Name in tokenizer_config.json under which a model's ends travel with its tokenizer, so that a checkpoint of an
adapter, which has no generation_config.json, ends answers as its run did."""


@dataclass(frozen=True)
class TurnEnd:
    """How a template ends an assistant's turn: the token, and what it writes behind it at a conversation's end."""

    id: int
    token: str
    tail: str


def ids_of(value: Any) -> set[int]:
    """An eos_token_id (a number, a list of them, or nothing) as a set."""
    values = value if isinstance(value, list | tuple) else [value]
    return {int(one) for one in values if isinstance(one, int) and not isinstance(one, bool) and one >= 0}


def with_model_ends(tokenizer: Any, path: str, revision: str | None, local_only: bool) -> Any:
    """The tokenizer, knowing the ends that the files of the model at `path` name (of an adapter, its base's)."""
    found = ids_of(tokenizer.init_kwargs.get(KEPT)) | file_ends(path, revision, local_only)
    if more := own_tokens(found, tokenizer) - {tokenizer.eos_token_id}:
        tokenizer.init_kwargs[KEPT] = sorted(more)
    return tokenizer


def own_tokens(ids: set[int], tokenizer: Any) -> set[int]:
    """Those of the ids that are added tokens, which no ordinary text is made of."""
    return ids & set(tokenizer.added_tokens_decoder)


def file_ends(path: str, revision: str | None, local_only: bool, depth: int = 0) -> set[int]:
    """The eos_token_id of a model's generation_config.json and config.json."""
    read = functools.partial(read_file, path, revision, local_only)
    adapter = read("adapter_config.json") if Path(path).is_dir() else {}
    base = adapter.get("base_model_name_or_path")
    found = file_ends(base, adapter.get("revision"), local_only, depth + 1) if base and depth < 3 else set()
    contents = [read("generation_config.json"), read("config.json")]
    found = found.union(*(ids_of(content.get("eos_token_id")) for content in contents))
    text = contents[1].get("text_config")  # of a model that reads images too, whose own level names none
    return found or ids_of(text.get("eos_token_id") if isinstance(text, dict) else None)


def read_file(path: str, revision: str | None, local_only: bool, name: str) -> dict[str, Any]:
    """The object in a JSON file of a model's folder or hub repository; {} where there is none."""
    from transformers.utils import cached_file

    file: Any = Path(path).expanduser() / name
    try:
        if not Path(path).expanduser().is_dir():
            file = cached_file(path, name, revision=revision, local_files_only=local_only)
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def ends(tokenizer: Any, model: Any = None) -> frozenset[int]:
    """Every id that ends an answer, as far as the tokenizer knows, and a loaded `model`; EOS is one of them."""
    end = turn_end(tokenizer)
    known = {tokenizer.eos_token_id} | ids_of(tokenizer.init_kwargs.get(KEPT)) | ({end.id} if end else set())
    return frozenset(known | own_tokens(model_ends(model), tokenizer) if model is not None else known)


def model_ends(model: Any) -> set[int]:
    """The eos_token_id that a loaded model names, below an adapter too."""
    found: set[int] = set()
    for module in model.modules():
        if hasattr(module, "generation_config"):
            for settings in (module.generation_config, module.config):
                found |= ids_of(getattr(settings, "eos_token_id", None))
    return found


def other_ends(tokenizer: Any) -> list[int]:
    """The ends beside EOS: what tells answers from those of a time when EOS alone ended one."""
    return sorted(ends(tokenizer) - {tokenizer.eos_token_id})


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save the tokenizer; where more than EOS ends an answer, generation_config.json beside it says so to any tool."""
    tokenizer.save_pretrained(folder)
    if more := other_ends(tokenizer):
        settings = read_file(str(folder), None, True, "generation_config.json")
        ids = sorted({tokenizer.eos_token_id, *more, *ids_of(settings.get("eos_token_id"))})
        text = json.dumps(settings | {"eos_token_id": ids}, indent=2) + "\n"
        (folder / "generation_config.json").write_text(text, encoding="utf-8")


def turn_end(tokenizer: Any) -> TurnEnd | None:
    """The token with which the chat template ends an assistant's turn; None where it writes none.

    Read off two renderings: what stands behind an answer that ends a conversation, and behind one that does not. The
    tokens in both are the end of a turn; the first of them that the tokenizer or the model calls an end, else the last
    special one.
    """
    return find_turn_end(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else None


@functools.lru_cache(maxsize=16)
def find_turn_end(tokenizer: Any, template: str) -> TurnEnd | None:
    """`turn_end` of a tokenizer under a template, found once."""
    word, user = "Zq7w", {"role": "user", "content": "a"}
    try:
        last = apply_template([user, turn(word)], tokenizer, "probe", answered=True)
        inner = apply_template([user, turn(word), user], tokenizer, "probe", answered=True)
    except UsageError:
        return None
    if word not in last or word not in inner:
        return None
    last, inner = last.rpartition(word)[2], inner.rpartition(word)[2]
    both = shared_ids(tokenizer, last, inner)
    special = [one for one in both if one in tokenizer.added_tokens_decoder or one == tokenizer.eos_token_id]
    if not special:
        return None
    known = {tokenizer.eos_token_id} | ids_of(tokenizer.init_kwargs.get(KEPT))
    end = next((one for one in special if one in known), special[-1])
    token = str(tokenizer.convert_ids_to_tokens(end))
    found, _, tail = last.partition(token)
    return TurnEnd(end, token, tail) if len(found) < len(last) else None


def shared_ids(tokenizer: Any, one: str, other: str) -> list[int]:
    """The ids that two texts begin with alike."""
    pair = tokenizer([one, other], add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    both = []
    for a, b in zip(*pair, strict=False):
        if a != b:
            break
        both.append(a)
    return both


def close(text: str, tokenizer: Any) -> str:
    """What a template wrote behind an opened prompt for an answer, up to and including the token that ends it."""
    end, eos = turn_end(tokenizer), tokenizer.eos_token
    if end is not None and text.endswith(end.token + end.tail):
        return text.removesuffix(end.tail)
    if eos in text and not text.rsplit(eos, 1)[1].strip():
        return str(text.rsplit(eos, 1)[0] + eos)
    return text
