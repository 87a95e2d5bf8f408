"""Chat messages under the model's own template, a given one, and the embedded models'."""

from pathlib import Path

import pytest

from dpo.config import load
from dpo.data.json_over_prose import PROMPT
from dpo.data.pair import Pair
from dpo.data.tokens import encode_prompt, render, tokenise_pair
from dpo.data.twelve import PROMPT as BYTE_PROMPT
from dpo.errors import UsageError
from tests import toys

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "lookup"}}]}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "About Bo?"},
    CALL,
    {"role": "tool", "content": "Bo is a city."},
    {"role": "assistant", "content": "A city."},
    {"role": "user", "content": "Where?"},
]
ASKED = [{"role": "user", "content": "Describe Bo."}]


def embedded(option: str, cache: Path, *overrides: str):
    """The tokenizer of an embedded model."""
    config = load([f"model={option}", "model.steps=5", *overrides])
    return config.model.tokenizer(cache)


@pytest.mark.parametrize(("option", "form"), [("tiny", PROMPT), ("tiny_byte", BYTE_PROMPT)])
def test_embedded_models_read_messages_as_their_own_prompts(option: str, form: str, cache: Path) -> None:
    """A user's message is the text that the embedded sets ask with, so published sets work with them as they are."""
    assert render(ASKED, embedded(option, cache)) == form.format(instruction="Describe Bo.")


@pytest.mark.parametrize("option", ("tiny", "tiny_byte", "chatml"))
def test_histories_pass_through_with_an_exact_boundary(option: str, cache: Path) -> None:
    """System, tool and earlier turns are in the prompt; prompt and answer are what the whole conversation is."""
    tokenizer = toys.tokenizer("chatml") if option == "chatml" else embedded(option, cache)
    history = [m for m in HISTORY if m is not CALL] if option == "chatml" else HISTORY
    pair, _ = tokenise_pair(
        Pair("p", history, "In Norway.", [{"role": "assistant", "content": "No idea."}], "toy"), tokenizer
    )
    prompt = tokenizer.decode(pair.prompt_ids)
    for said in ("Be brief.", "About Bo?", "Bo is a city.", "A city.", "Where?"):
        assert said in prompt
    assert option == "chatml" or "lookup" in prompt
    assert list(pair.prompt_ids) == encode_prompt(render(history, tokenizer), tokenizer)
    assert tokenizer.decode(pair.chosen_ids) == "In Norway." + tokenizer.eos_token
    assert tokenizer.decode(pair.rejected_ids) == "No idea." + tokenizer.eos_token


def test_a_given_template_takes_the_place_of_the_own_one(cache: Path, tmp_path: Path) -> None:
    """model.chat_template is a Jinja file."""
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert render(ASKED, embedded("tiny", cache, f"model.chat_template={path}")) == "<user>Describe Bo.<assistant>"


def test_a_template_that_cannot_be_read_is_refused(cache: Path, tmp_path: Path) -> None:
    """One line with the key."""
    with pytest.raises(UsageError, match=r"model\.chat_template=.*nowhere\.jinja: cannot be read"):
        embedded("tiny", cache, f"model.chat_template={tmp_path / 'nowhere.jinja'}")


def test_a_broken_template_names_the_pair(cache: Path, tmp_path: Path) -> None:
    """A syntax error of Jinja is the user's, and is one line."""
    path = tmp_path / "broken.jinja"
    path.write_text("{% for m in %}")
    with pytest.raises(UsageError, match=r"pair 'p'.*refuses these messages"):
        tokenise_pair(Pair("p", ASKED, "a", "b", "toy"), embedded("tiny", cache, f"model.chat_template={path}"))


def test_the_template_leaves_the_embedded_base_as_it_is(cache: Path, tmp_path: Path) -> None:
    """It changes how messages read, not which weights are built."""
    path = tmp_path / "mine.jinja"
    path.write_text("x")
    plain, given = load(["model=tiny_byte"]), load(["model=tiny_byte", f"model.chat_template={path}"])
    assert plain.model.identity(cache) == given.model.identity(cache)
