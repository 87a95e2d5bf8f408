"""Text to token ids: the prompt/completion boundary, the one BOS, the one EOS, and truncation, all counted.

Rules (each held by a test):
- the prompt of a pair is tokenised once and shared by both answers;
- decode(prompt_ids + completion_ids) is prompt + completion;
- at most one BOS, first; exactly one token that ends an answer, last, on every completion that was not truncated:
  the one that the chat template ends a turn with, else EOS (see ends.py), and nothing of the template behind it;
- a prompt that leaves no room for an answer token within max_length is an error.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.cache import build_once, key
from dpo.data.ends import ends
from dpo.data.pair import Pair
from dpo.data.rendered import report_left_out, texts
from dpo.data.templates import render as render
from dpo.data.token_store import digest, fingerprint, save, saved, shared
from dpo.errors import UsageError

RULES = 2  # raise it when the rules above change what ids come out, so that no cache serves the old ones
BATCH = 512  # pairs per call of the tokenizer: its own overhead gone, memory small


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one pair; completions end with what ends an answer unless truncated. `id` is the pair's."""

    id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


def tokenise(
    pairs: Iterable[Pair],
    tokenizer: Any,
    max_length: int,
    max_merge_share: float = 1.0,
    drop_long_prompts: bool = False,
    cache: Path | None = None,
) -> tuple[list[TokenPair], dict[str, int]]:
    """Token pairs in order, and the counts pairs, boundary_merges, truncated_chosen, truncated_rejected, eos_lost
    and prompt_too_long.

    `max_length` bounds prompt + completion in tokens. A prompt without room for an answer raises UsageError, or
    its pair is dropped and counted as prompt_too_long. Raises UsageError too where more than `max_merge_share` of
    the pairs have a token merged over the boundary. Under `cache` the ids are kept, and found again by the hash
    of the rendered texts, the tokenizer and the limits.
    """
    pairs = list(pairs)
    rendered = [texts(pair, tokenizer) for pair in pairs]
    report_left_out(pairs, rendered, tokenizer)
    if cache is None:
        token_pairs, counts = encode_pairs(pairs, rendered, tokenizer, max_length, drop_long_prompts)
    else:
        limits = (max_length, drop_long_prompts)
        path = cache / "tokens" / f"{key(*rules(tokenizer), digest(rendered), *limits)}.safetensors"
        build_once(path, lambda new: save(new, pairs, *encode_pairs(pairs, rendered, tokenizer, *limits)))
        sides, kept, counts = saved(path)
        ids = (pairs[position].id for position in kept)
        token_pairs = [TokenPair(name, *map(shared, three)) for name, three in zip(ids, sides, strict=True)]
    if counts["boundary_merges"] > max_merge_share * counts["pairs"]:
        raise UsageError(
            f"{counts['boundary_merges']} of {counts['pairs']} pairs have a token merged over the prompt/answer "
            f"boundary, more than train.max_merge_share={max_merge_share}; end prompts with a newline"
        )
    return token_pairs, counts


def rules(tokenizer: Any) -> tuple[int, str, list[int]]:
    """What decides the ids of a text: the rules here, the tokenizer, and what ends an answer."""
    return RULES, fingerprint(tokenizer), sorted(ends(tokenizer))


def encode_pairs(
    pairs: Sequence[Pair],
    rendered: Sequence[tuple[str, str, str]],
    tokenizer: Any,
    max_length: int,
    drop_long_prompts: bool,
) -> tuple[list[TokenPair], dict[str, int]]:
    """Truncated token pairs and their counts, a batch of texts at a time."""
    counts = Counter(
        pairs=0, boundary_merges=0, truncated_chosen=0, truncated_rejected=0, eos_lost=0, prompt_too_long=0
    )
    bos = own_bos(tokenizer)
    token_pairs = []
    for begin in range(0, len(pairs), BATCH):
        part = slice(begin, begin + BATCH)
        for token_pair, merged in encode_batch(pairs[part], rendered[part], tokenizer, bos):
            if drop_long_prompts and len(token_pair.prompt_ids) >= max_length:
                counts["prompt_too_long"] += 1
                continue
            counts["pairs"] += 1
            counts["boundary_merges"] += merged
            token_pairs.append(truncate(token_pair, max_length, counts))
    return token_pairs, dict(counts)


def tokenise_pair(pair: Pair, tokenizer: Any) -> tuple[TokenPair, bool]:
    """One untruncated pair, and whether either answer's first token would have merged with the prompt's last."""
    return next(encode_batch([pair], [texts(pair, tokenizer)], tokenizer, own_bos(tokenizer)))


def encode_batch(
    pairs: Sequence[Pair], rendered: Sequence[tuple[str, str, str]], tokenizer: Any, bos: int | None
) -> Iterator[tuple[TokenPair, bool]]:
    """Untruncated pairs and whether their boundary merged; the tokenizer is called once for all their texts."""
    closing = ends(tokenizer)
    flat = [text for prompt, chosen, rejected in rendered for text in (prompt, prompt + chosen, prompt + rejected)]
    encoded = iter(encode_all(flat, tokenizer))
    for pair, (prompt, chosen, rejected) in zip(pairs, rendered, strict=True):
        prompt_ids = with_bos(next(encoded), bos)
        chosen_ids, chosen_merged = complete(pair, prompt, prompt_ids, chosen, next(encoded), tokenizer, closing)
        rejected_ids, rejected_merged = complete(pair, prompt, prompt_ids, rejected, next(encoded), tokenizer, closing)
        check_bos(pair, prompt_ids, chosen_ids + rejected_ids, tokenizer)
        sides = (shared(ids) for ids in (prompt_ids, chosen_ids, rejected_ids))
        yield TokenPair(pair.id, *sides), chosen_merged or rejected_merged


def check_bos(pair: Pair, prompt_ids: list[int], answer_ids: list[int], tokenizer: Any) -> None:
    """Raise UsageError for a BOS inside a text: it would start a sequence in the middle of another.

    A chat template may write one before every turn of a prompt, as Llama 2's does; where BOS is EOS, EOS's rule holds.
    """
    bos = tokenizer.bos_token_id
    inside = answer_ids + (prompt_ids[1:] if isinstance(pair.prompt, str) else [])
    if bos != tokenizer.eos_token_id and bos in inside:
        raise UsageError(
            f"pair {pair.id!r}: a text holds the beginning-of-sequence token {tokenizer.bos_token!r} past its start; "
            "remove it from the row"
        )


def truncate(pair: TokenPair, max_length: int, counts: Counter[str]) -> TokenPair:
    """Cut both completions to what `max_length` leaves them, and count what was cut."""
    room = max_length - len(pair.prompt_ids)
    if room < 1:
        raise UsageError(
            f"pair {pair.id!r}: the prompt has {len(pair.prompt_ids)} tokens and train.max_length={max_length} "
            f"leaves no token for an answer; raise train.max_length above {len(pair.prompt_ids)} or drop the pair"
        )
    cut_chosen, cut_rejected = len(pair.chosen_ids) > room, len(pair.rejected_ids) > room
    counts["truncated_chosen"] += cut_chosen
    counts["truncated_rejected"] += cut_rejected
    counts["eos_lost"] += cut_chosen + cut_rejected
    return TokenPair(pair.id, pair.prompt_ids, pair.chosen_ids[:room], pair.rejected_ids[:room])


def mismatch(pairs: Sequence[TokenPair], max_length: int) -> list[TokenPair]:
    """Each pair's prompt with both answers of its successor (the first follows the last), cut to `max_length`.

    Fixed by the data's order, so that their log-probs under a reference can be stored like any others.
    """
    others = [*pairs[1:], *pairs[:1]]
    made = []
    for pair, other in zip(pairs, others, strict=True):
        room = max_length - len(pair.prompt_ids)
        made.append(TokenPair(pair.id, pair.prompt_ids, other.chosen_ids[:room], other.rejected_ids[:room]))
    return made


def own_bos(tokenizer: Any) -> int | None:
    """The BOS that this tokenizer puts before a text by itself, None where it puts none."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a").input_ids[:1] == [bos] else None


def encode_prompt(prompt: str, tokenizer: Any) -> list[int]:
    """Ids of a prompt, with the tokenizer's BOS first where it uses one and the text does not bring it."""
    return with_bos(encode(prompt, tokenizer), own_bos(tokenizer))


def with_bos(ids: list[int], bos: int | None) -> list[int]:
    """The ids, opened by `bos` where there is one and they are not; UsageError where nothing is left to start from."""
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    if not ids:
        raise UsageError("a prompt has no tokens, and this tokenizer has no BOS to start from; prompts need some text")
    return ids


def encode(text: str, tokenizer: Any) -> list[int]:
    """Plain ids, no special token added."""
    return encode_all([text], tokenizer)[0]


def encode_all(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Plain ids of many texts in one call."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def complete(
    pair: Pair, prompt: str, prompt_ids: list[int], answer: str, whole: list[int], tokenizer: Any, closing: Set[int]
) -> tuple[list[int], bool]:
    """Completion ids with exactly one of `closing`, last, and whether the first token merges with the prompt's last.

    The completion is what follows the prompt's ids in `whole`, the ids of the whole text. Where a token spans the
    boundary, the answer is tokenised by itself instead, so that both answers keep the very same prompt.
    """
    bare = prompt_ids[1:] if prompt_ids[:1] == [tokenizer.bos_token_id] else prompt_ids
    start = prompt_ids[0] if len(bare) < len(prompt_ids) else None
    if start is not None and whole[:1] == [start]:
        whole = whole[1:]
    merged = whole[: len(bare)] != bare
    ids = alone(pair, prompt, answer, tokenizer) if merged else whole[len(bare) :]
    if early := [token for token in ids[:-1] if token in closing]:
        raise UsageError(
            f"pair {pair.id!r}: an answer holds the end-of-sequence token {tokenizer.decode(early[:1])!r} before its "
            "end; remove it from the row"
        )
    if not [token for token in ids if token not in closing]:
        raise UsageError(f"pair {pair.id!r}: an answer has no tokens; remove or mend the row")
    return (ids if ids[-1] in closing else [*ids, tokenizer.eos_token_id]), merged


def alone(pair: Pair, prompt: str, answer: str, tokenizer: Any) -> list[int]:
    """Ids of the answer by itself, such that prompt and answer still decode to the whole text.

    Tokenizers that put a space before a text are given a newline first, which is cut off again.
    """
    whole = tokenizer.decode(encode(prompt + answer, tokenizer), clean_up_tokenization_spaces=False)
    prompt_ids, newline = encode(prompt, tokenizer), encode("\n", tokenizer)
    anchored = encode("\n" + answer, tokenizer)
    for ids in (encode(answer, tokenizer), anchored[len(newline) :]):
        if tokenizer.decode(prompt_ids + ids, clean_up_tokenization_spaces=False) == whole:
            return ids
    raise UsageError(f"pair {pair.id!r}: this tokenizer cannot split prompt and answer; end the prompt with a newline")


def content_hash(pairs: Iterable[TokenPair]) -> str:
    """SHA-256 over the ids of the pairs in order: equal exactly where a model would see the same tokens."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)).encode())
    return digest.hexdigest()
