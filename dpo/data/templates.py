"""Chat templates: messages as text, the same on every day, with what a template leaves out or rewrites said."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dpo.data.pair import TOOLS, Message, Text
from dpo.errors import UsageError, first_line
from dpo.progress import remark

DAY = datetime(2024, 7, 26)
"""Today, for every template that asks (strftime_now): Llama 3's own default. The same command then renders the same
texts on any day, and so do `dpo reproduce`, `dpo score` and a resume."""
DIRECTIVES = ("-d", "-m", "-I", "-H", *"aAbBdmyYHIMSpjcxXfUwWZz")


def render(prompt: Text, tokenizer: Any, where: str = "prompt") -> str:
    """The prompt as one string that an answer can follow directly."""
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise UsageError(
            f"pair {where!r} holds chat messages and the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use string prompts, a model with a template, or model.chat_template=<Jinja file>"
        )
    return apply_template(prompt, tokenizer, where, answered=False)


def apply_template(messages: list[Message], tokenizer: Any, where: str, answered: bool) -> str:
    """The conversation as text, opened for an answer unless it is `answered`; other keys of a message pass through.

    Tools in the first message are handed to the template. The day that a template asks for is DAY.
    """
    tools = messages[0].get(TOOLS) if messages else None
    tools = tools if isinstance(tools, list) else None
    try:
        template = tokenizer.get_chat_template(None, tools)
        if "strftime_now" in template:
            template = CLOCK + template
            remark(
                f"the chat template of {tokenizer.name_or_path!r} writes today's date; it is always given "
                f"{DAY:%d %b %Y}, so that a run's texts are the same on another day"
            )
        options = {"add_generation_prompt": not answered, "tokenize": False, "chat_template": template}
        return str(tokenizer.apply_chat_template(messages, tools=tools, **options))
    except Exception as error:  # jinja errors have no common base with what templates raise
        raise UsageError(f"pair {where!r}: the chat template refuses these messages: {first_line(error)}") from error


def clock() -> str:
    """A Jinja macro that stands in for strftime_now, on DAY."""
    chain = "".join(f" | replace('%{name}', '{DAY.strftime('%' + name)}')" for name in DIRECTIVES)
    # Jinja drops the line break behind a tag, so that the template itself begins a line as it did
    return "{% macro strftime_now(format) %}{{ format" + chain + " }}{% endmacro %}\n"


CLOCK = clock()


def head(prompt: list[Message], opened: str, wholes: tuple[str, ...], tokenizer: Any, where: str) -> str:
    """The text that both whole conversations begin with, up to where an answer's own text begins.

    That is the opened prompt, but where a template opens an answer with what a finished one lacks (DeepSeek-R1's
    <think>): there it ends before that. Raises UsageError where the template rewrites the prompt itself once it is
    answered, with the place where the two part.
    """
    if all(whole.startswith(opened) for whole in wholes):
        return opened
    said = [apply_template([*prompt, turn(text)], tokenizer, where, answered=True) for text in ("x", "y")]
    shared = common(opened, *said)
    closed = apply_template(prompt, tokenizer, where, answered=True)
    if shared.startswith(closed) and all(whole.startswith(shared) for whole in wholes):
        remark(
            f"the chat template of {tokenizer.name_or_path!r} opens an answer with {opened[len(shared) :]!r}, "
            "which it leaves out of finished ones: answers are trained without it, and sampled behind it"
        )
        return shared
    other = next((whole for whole in wholes if not whole.startswith(opened)), said[0])
    at = len(common(opened, other))
    advice = "put the system turn's text into the user's message" if prompt[0]["role"] == "system" else "mend that"
    raise UsageError(
        f"pair {where!r}: the chat template of {tokenizer.name_or_path!r} does not render the prompt as the beginning "
        f"of the whole conversation: behind {opened[max(0, at - 20) : at]!r} it goes on with "
        f"{opened[at : at + 40]!r}, but once answered with {other[at : at + 40]!r}; {advice}, or give "
        "model.chat_template=<Jinja file>"
    )


def common(*texts: str) -> str:
    """The characters that all texts begin with."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def turn(text: str) -> Message:
    """A turn of the assistant."""
    return {"role": "assistant", "content": text}
