"""Texts from data in the Markdown of a report: shown as they are, whatever they would mean there."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dpo.results.cells import Cell, Table
from dpo.results.cells import plain as cell
from dpo.results.figures.figure import plain as caption
from dpo.terminal import visible

MEANS = st.text(st.sampled_from("[]()!<>*_`~#|&;:/.\\$-+=\"' \n\tax1wWhtps@{}\x1b\u202e"), max_size=40)
ATTACKS = (
    "[click](https://evil.example)",
    "![](https://evil.example/pixel.png)",
    "<img src=x onerror=alert(1)>",
    "<https://evil.example>",
    "https://evil.example and www.evil.example",
    "[a]: https://evil.example\n[a]",
    "</td></tr></table><script>alert(1)</script>",
    "javascript:alert(1)",
    "| a | b |\n| --- | --- |",
    "&lt;script&gt; &#60;b&#62;",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
)


def rendered(markdown: str) -> str:
    """What a reader sees of a paragraph, and nothing else may be in it: no tag but the paragraph's and line breaks."""
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(f"x{markdown}x")
    inside = re.fullmatch(r"<p>(.*)</p>\s*", page, flags=re.DOTALL)
    assert inside, page
    text = re.sub("<br ?/?>", "\n", inside[1])
    assert "<" not in text and ">" not in text, page
    return html.unescape(text)


@given(MEANS | st.text(max_size=40) | st.sampled_from(ATTACKS))
def test_a_text_is_seen_as_it_is(text: str) -> None:
    """In a cell on one line, in a caption with its lines."""
    assert rendered(cell(text)).split() == f"x{visible(' '.join(text.split()))}x".split()
    assert re.sub(r"\s+", " ", rendered(caption(text))) == re.sub(r"\s+", " ", f"x{visible(text)}x")


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_address_becomes_a_link_or_a_picture(attack: str) -> None:
    """Also where bare addresses do (GitHub): no :// and no www. is left to be found; HTML is escaped."""
    table = Table("t", attack, (attack,), ((Cell(attack, (), attack),),), (attack,))
    text, page = table._repr_markdown_(), table._repr_html_()
    for sign in ("://", "www.", "<img", "<script", "\x1b"):
        assert sign not in text, sign
    assert not re.search(r"(?<!\\)\]\(", text)
    assert not re.search(r"<(?!/?(table|caption|thead|tbody|tr|th|td|div|p)\b)", page) and "\x1b" not in page
