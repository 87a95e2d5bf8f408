"""Texts from data on a page: they mean themselves, and nothing in them is a link, a picture, a heading or a script."""

from __future__ import annotations

import html
import re

from dpo.terminal import visible


def in_html(text: str) -> str:
    """The text for an element or an attribute of a page."""
    return html.escape(visible(text))


def in_markdown(text: str) -> str:
    """The text as Markdown (CommonMark, and GitHub's, which makes links of bare addresses) that shows it as it is."""
    kept = re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", html.escape(visible(text), quote=False))
    kept = kept.replace("://", ":&#47;&#47;")
    return re.sub(r"(?i)\bwww\.", lambda found: found[0][:-1] + "&#46;", kept)
