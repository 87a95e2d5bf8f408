"""One self-contained HTML page, and the same as Markdown, from headings, texts and what notebooks showed.

Nothing on the page asks any host for anything: styles, script and data are inside, and its own Content-Security-Policy
forbids the rest. Only the page's own script may run (by its hash), so that a completion that were not escaped could
still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpo.results.figures.figure import MIME, plain
from dpo.results.foreign import in_html

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A piece of a page in both forms. `heading` is (level, text, anchor) where it begins a section; `files` are what
    the Markdown form has beside it, by name."""

    html: str
    markdown: str
    heading: tuple[int, str, str] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def heading(level: int, text: str, anchor: str) -> Part:
    """A heading that the table of contents lists (levels 2 and 3)."""
    return Part(
        f'<h{level} id="{anchor}">{in_html(text)}</h{level}>',
        f"{'#' * level} {plain(text)}\n",
        (level, text, anchor),
    )


def shown(thing: Any, wrap: str = "") -> Part:
    """An object of dpo.results with its own HTML and Markdown, such as a table."""
    return Part(scrolling(thing._repr_html_(), wrap), thing._repr_markdown_())


def scrolling(text: str, kind: str = "") -> str:
    """A table in a box of its own that scrolls sideways on a narrow screen."""
    if "<table" not in text:
        return text
    start, end = text.index("<table"), text.rindex("</table>") + len("</table>")
    said = re.search(r"<caption[^>]*>(.*?)</caption>", text, flags=re.S)
    label = f' aria-label="{said[1]}"' if said else ""
    box = f'<div class="scroll {kind}" role="region" tabindex="0"{label}>'
    return f"{text[:start]}{box}{text[start:end]}</div>{text[end:]}"


def of_notebook(notebook: Mapping[str, Any], name: str) -> list[Part]:
    """What an executed notebook shows, without its code: texts one heading level down, and the outputs of its cells."""
    from dpo.results.notebooks import source

    parts: list[Part] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts += of_text(source(cell), name)
        elif cell["cell_type"] == "code":
            parts += [of_output(output) for output in cell["outputs"] if output["output_type"] != "stream"]
    return parts


def of_text(text: str, name: str) -> list[Part]:
    """Markdown of a notebook, a part for each heading and for what lies between; HTML in it is shown as text."""
    from markdown_it import MarkdownIt

    parts = []
    for piece in re.split(r"^(#+ .*)$", text, flags=re.M):
        level = len(piece) - len(piece.lstrip("#"))
        if level:
            title = piece.lstrip("# ").strip()
            parts.append(heading(min(level + 1, 3), title, f"{name}-{slug(title)}" if level > 1 else name))
        elif piece.strip():
            renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
            parts.append(Part(renderer.render(piece), piece.strip() + "\n"))
    return parts


def of_output(output: Mapping[str, Any]) -> Part:
    """One output of a cell: the forms that our own objects give, or its text, escaped."""
    data = output["data"]
    text = data.get("text/plain", "")
    files: dict[str, bytes] = {}
    if figure := data.get(MIME):
        stem = figure["name"]
        files = {f"{stem}.svg": figure["svg"].encode(), f"{stem}.csv": figure["csv"].encode()}
        files[f"{stem}.png"] = base64.b64decode(figure["png"])
    page = data.get("text/html", f"<pre>{in_html(text)}</pre>")
    return Part(scrolling(page), data.get("text/markdown", f"```\n{text}\n```\n"), files=files)


def each_figure_once(parts: Sequence[Part]) -> list[Part]:
    """The parts with a figure that two notebooks show drawn where it comes first, and a link to it after that."""
    seen: dict[str, Part] = {}
    kept = []
    for part in parts:
        if part.files:
            name = next(iter(part.files)).rpartition(".")[0]
            first = seen.setdefault(name, part)
            assert first.html == part.html, f"two figures are called {name}"
            if first is not part:
                part = Part(f'<p><a href="#fig-{name}">The figure is above.</a></p>', "The figure is above.\n")
        kept.append(part)
    return kept


def slug(text: str) -> str:
    """A heading as an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def contents(parts: Sequence[Part]) -> str:
    """The table of contents."""
    lines = [
        f'<li class="h{level}"><a href="#{anchor}">{in_html(text)}</a></li>'
        for level, text, anchor in (part.heading for part in parts if part.heading)
        if level <= 3
    ]
    return (
        '<nav class="toc" aria-label="Contents"><details open><summary>Contents</summary><ol>'
        + "\n".join(lines)
        + "</ol></details></nav>"
    )


def to_html(title: str, lead: Part, parts: Sequence[Part], foot: str) -> str:
    """The whole page."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    body = "\n".join(part.html for part in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{in_html(title)}</title>
<style>{style}</style>
</head>
<body>
<div class="page">
<header>
{lead.html}
</header>
{contents(parts)}
<main>
{body}
</main>
<footer>{in_html(foot)}</footer>
</div>
<script>{script}</script>
</body>
</html>
"""


def to_markdown(lead: Part, parts: Sequence[Part], foot: str) -> str:
    """The same as Markdown; figures are files beside it."""
    return "\n".join(part.markdown for part in (lead, *parts)) + f"\n---\n{plain(foot)}\n"
