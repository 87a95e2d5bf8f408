"""Text to ids: the boundary, the one BOS and the one EOS, over tokenizers of every habit."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpo.data.tokens import encode, encode_prompt, render, tokenise_pair
from dpo.errors import UsageError
from tests import toys
from tests.toys import text_pair as pair

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), min_size=1, max_size=24)
WORDS = st.text("ab .,\n\té漢", min_size=1, max_size=16)
PROMPT = st.one_of(TEXT, WORDS, st.sampled_from(["Describe ", "About Bo.\n", "A planet", "x = "]))
ANSWER = st.one_of(TEXT, WORDS, st.sampled_from(["planet", " is a", "\n\n", "{}"]))
EVERY = pytest.mark.parametrize("kind", toys.KINDS)
FEWER = settings(max_examples=30, deadline=None, derandomize=True)


def tokens(prompt, chosen="yes", rejected="no", kind="bpe"):
    return tokenise_pair(pair(prompt, chosen, rejected), toys.tokenizer(kind))[0]


def plain(kind, prompt, *answers):
    """Assume texts that a tokenizer can give back: no special token, no first space where it has a dummy one."""
    assume(kind not in toys.SPACE_PREFIXING or not prompt.startswith(" "))
    assume(not any(token in prompt + text for token in toys.tokenizer(kind).all_special_tokens for text in answers))


@EVERY
@FEWER
@given(prompt=PROMPT, chosen=ANSWER, rejected=ANSWER)
def test_prompt_and_completion_ids_decode_to_the_text(kind, prompt, chosen, rejected):
    """Whatever merges over the boundary, decode(prompt_ids + completion_ids) is prompt + answer."""
    plain(kind, prompt, chosen, rejected)
    made, tokenizer = tokens(prompt, chosen, rejected, kind), toys.tokenizer(kind)
    for answer, ids in ((chosen, made.chosen_ids), (rejected, made.rejected_ids)):
        whole = tokenizer.decode([*made.prompt_ids, *ids], skip_special_tokens=True)
        assert whole == prompt + answer


@EVERY
@FEWER
@given(prompt=PROMPT, chosen=ANSWER, rejected=ANSWER)
def test_the_prompts_ids_do_not_depend_on_the_answers(kind, prompt, chosen, rejected):
    """Both answers follow the ids that sampling from this prompt would start from."""
    plain(kind, prompt, chosen, rejected)
    assert list(tokens(prompt, chosen, rejected, kind).prompt_ids) == encode_prompt(prompt, toys.tokenizer(kind))


@EVERY
@FEWER
@given(prompt=PROMPT, answer=ANSWER)
def test_every_completion_ends_with_exactly_one_eos(kind, prompt, answer):
    """One EOS, last, on both sides, and none in the prompt."""
    plain(kind, prompt, answer)
    made, eos = tokens(prompt, answer, answer + "!", kind), toys.tokenizer(kind).eos_token_id
    for ids in (made.chosen_ids, made.rejected_ids):
        assert ids[-1] == eos and ids.count(eos) == 1
    assert eos not in made.prompt_ids


@pytest.mark.parametrize("kind", ("llama", *toys.SPACE_PREFIXING))
@FEWER
@given(prompt=PROMPT, answer=ANSWER)
def test_a_tokenizer_that_adds_bos_has_it_once_at_index_0(kind, prompt, answer):
    """One BOS, first, and none where the completion begins."""
    plain(kind, prompt, answer)
    made, bos = tokens(prompt, answer, kind=kind), toys.tokenizer(kind).bos_token_id
    assert made.prompt_ids[0] == bos
    assert (made.prompt_ids + made.chosen_ids).count(bos) == 1 and bos not in made.rejected_ids


@pytest.mark.parametrize("kind", ("byte", "bpe", "chatml"))
def test_a_tokenizer_without_bos_gets_none(kind):
    """The prompt is its text's ids and nothing before them."""
    assert list(tokens("About Bo.", kind=kind).prompt_ids) == encode("About Bo.", toys.tokenizer(kind))


def test_a_bos_that_the_tokenizer_does_not_add_is_not_added():
    """GPT-2 names a BOS but never writes it; neither do we."""
    tokenizer = toys.wrap(toys.bpe_backend(["<|end|>"]), eos_token="<|end|>", bos_token="<|end|>")
    assert tokenizer.bos_token_id not in tokenise_pair(pair("About Bo."), tokenizer)[0].prompt_ids


@pytest.mark.parametrize("kind", ("llama", *toys.SPACE_PREFIXING))
def test_a_bos_written_in_the_prompt_is_not_doubled(kind):
    """A text that brings its BOS gets no second one, and that is no merged boundary."""
    tokenizer = toys.tokenizer(kind)
    made, merged = tokenise_pair(pair("<s>About Bo.\n"), tokenizer)
    assert made.prompt_ids[0] == tokenizer.bos_token_id and made.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(made.chosen_ids) == "yes</s>" and not merged


@pytest.mark.parametrize(("prompt", "answer"), [("About <s>Bo.\n", "yes"), ("About Bo.\n", "ye<s>s")])
def test_a_bos_after_the_first_position_is_refused(prompt, answer):
    """At most one BOS, at index 0: one inside a text would start a sequence in the middle of another."""
    with pytest.raises(UsageError, match="p1"):
        tokens(prompt, answer, kind="llama")


@EVERY
def test_an_answer_that_brings_its_eos_keeps_one(kind):
    """The texts "yes" and "yes<eos>" are the same ids."""
    eos = toys.tokenizer(kind).eos_token
    assert tokens("About Bo.\n", "yes" + eos, kind=kind) == tokens("About Bo.\n", "yes", kind=kind)


@EVERY
@pytest.mark.parametrize("template", ("ye{}s", "{}yes", "yes{0}{0}", "yes{} "))
def test_an_eos_before_the_end_of_an_answer_is_refused(kind, template):
    """A model would stop there: the pair is named, and so is the token."""
    eos = toys.tokenizer(kind).eos_token
    with pytest.raises(UsageError, match=r"pair 'p1'.*end-of-sequence") as error:
        tokens("About Bo.\n", "no", template.format(eos), kind)
    assert eos in str(error.value)


@EVERY
@pytest.mark.parametrize("side", ("chosen", "rejected"))
def test_an_empty_completion_is_refused(kind, side):
    """No text, or nothing but an EOS, leaves nothing to score."""
    for answer in ("", toys.tokenizer(kind).eos_token):
        with pytest.raises(UsageError, match="pair 'p1': an answer has no tokens"):
            tokens("About Bo.\n", kind=kind, **{side: answer})


def test_an_empty_prompt_is_bos_alone_where_there_is_one():
    """With BOS there is a token to predict the first answer token from."""
    assert tokens("", kind="llama").prompt_ids == (toys.tokenizer("llama").bos_token_id,)


def test_an_empty_prompt_without_bos_is_refused():
    """Nothing would predict the first answer token, and its log-prob would go missing."""
    with pytest.raises(UsageError, match="no tokens"):
        tokens("", kind="bpe")


USER = [{"role": "user", "content": "About Bo?"}]


def test_a_template_that_closes_the_turn_itself_leaves_one_eos_last():
    """ChatML writes EOS and a newline after every turn; the newline goes and no second EOS comes."""
    tokenizer = toys.tokenizer("chatml")
    made = tokens(USER, [{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "no"}], "chatml")
    assert tokenizer.decode(made.prompt_ids) == "<|im_start|>user\nAbout Bo?<|im_end|>\n<|im_start|>assistant\n"
    assert list(made.chosen_ids) == [*encode("yes", tokenizer), tokenizer.eos_token_id]
    assert list(made.rejected_ids) == [*encode("no", tokenizer), tokenizer.eos_token_id]


def test_a_string_answer_to_chat_messages_is_the_assistants_turn():
    """The prompt in messages and the answer as text give the ids of the full conversation."""
    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    assert tokens(USER, "yes", "no", "chatml") == tokens(USER, *answers, "chatml")


def test_a_template_that_writes_bos_has_it_once():
    """The template's BOS and the tokenizer's own are one; a turn the template leaves open gets its EOS."""
    tokenizer = toys.wrap(toys.with_bos(toys.bpe_backend(["<s>", "</s>"])), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = toys.CHAT_WITH_BOS
    made, _ = tokenise_pair(pair(USER), tokenizer)
    assert tokenizer.decode([*made.prompt_ids, *made.chosen_ids]) == "<s>[user] About Bo?\n[assistant] yes\n</s>"


def test_chat_messages_without_a_template_are_refused():
    """The message names the pair and what to do."""
    with pytest.raises(UsageError, match=r"pair 'p1'.*no chat template"):
        tokens(USER, kind="bpe")


def test_a_template_that_rewrites_the_prompt_is_refused():
    """Where the whole conversation does not begin with the opened prompt there is no boundary to find."""
    tokenizer = toys.wrap(toys.bpe_backend(["<|end|>"]), eos_token="<|end|>")
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UsageError, match="does not render the prompt as the beginning"):
        tokenise_pair(pair(USER), tokenizer)


def test_a_template_that_refuses_the_answer_says_so_in_one_line():
    """A template's own objection to the answer's roles is a UsageError that names the pair, as for the prompt's."""
    tokenizer = toys.wrap(toys.bpe_backend(["<|end|>"]), eos_token="<|end|>")
    check = "{% if loop.index0 % 2 != (m['role'] == 'assistant') | int %}{{ raise_exception('roles') }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + check + "{{ m['content'] }}{% endfor %}"
    with pytest.raises(UsageError, match="pair 'p1'"):
        tokenise_pair(pair(USER, [{"role": "user", "content": "yes"}], "no"), tokenizer)


@pytest.mark.parametrize("prompt", (USER, "About Bo?"))
def test_sampling_starts_from_the_prompt_ids_of_the_pair(prompt):
    """What the model answers in evaluation (render, encode_prompt) is the prompt it was trained and scored on."""
    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    tokenizer = toys.tokenizer("chatml")
    asked = pair(prompt, *answers)
    sampled_from = encode_prompt(render(asked.prompt, tokenizer), tokenizer)
    assert tuple(sampled_from) == tokenise_pair(asked, tokenizer)[0].prompt_ids
