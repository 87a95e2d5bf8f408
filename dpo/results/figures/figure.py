"""A figure that carries its numbers: drawn once, shown in a notebook, a page, a file, with the runs behind it.

The same data give the same bytes: no dates, no random ids, no settings of the machine's own. Colours are the
colour-blind safe set of Okabe and Ito (2008) without its yellow, which is too pale for paper; markers differ too.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpo.results.foreign import in_html, in_markdown

INK, SOFT, GRID = "#1b1b1e", "#6b6b70", "#d9d9dd"
"""Text, axes and grid. On a page each becomes a colour of the page, so that a figure is readable in dark and light."""
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))
LINES = ("-", "--", ":", "-.")
MIME = "application/vnd.dpo.figure+json"
"""What a notebook's output holds beside HTML and Markdown, so that a report can write the figure's files."""
RASTER_ABOVE = 3000
"""Points of one scatter beyond which they are drawn as an image inside the SVG, to keep pages small."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a label may hold a $ that came from data
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.facecolor": "auto",
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Look:
    """How one series is drawn wherever it appears."""

    colour: str
    marker: str
    sign: str
    line: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, and what draws on it."""

    title: str
    draw: Callable[[Any], None]


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    name     unique on a page; the stem of its files
    svg      the whole figure as a file, on a light card
    panels   each pair of axes as SVG for a page, which arranges them by its width, up to `columns` side by side
    data     every number that is drawn, tidy
    runs     ids of the runs behind it
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    panels: tuple[str, ...]
    columns: int
    legend: tuple[tuple[str, Look], ...]
    data: pd.DataFrame
    runs: tuple[str, ...]

    @property
    def csv(self) -> str:
        """The data behind the figure, at full precision."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))

    def _repr_html_(self) -> str:
        """Inline SVG, caption, a link that saves the data, the runs."""
        least, wide = {1: ("18rem", "34rem"), 2: ("21rem", "54rem")}.get(self.columns, ("18rem", "none"))
        grid = f"display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,{least}),1fr));gap:.5rem 1rem"
        data = base64.b64encode(self.csv.encode()).decode()
        return (
            f'<figure class="dpo-figure" id="fig-{self.name}">'
            f'<div class="panels" style="{grid};max-width:{wide}">{"".join(self.panels)}</div>'
            f"{self.legend_html()}"
            f"<figcaption><strong>{in_html(self.title)}.</strong> {in_html(self.caption)} "
            f'<a download="{self.name}.csv" href="data:text/csv;base64,{data}">data (CSV)</a>'
            f"{runs_html(self.runs)}</figcaption></figure>"
        )

    def legend_html(self) -> str:
        """The series with their colours and signs, as text."""
        if not self.legend:
            return ""
        keys = [
            f'<span class="key"><span style="color:{page_colour(look.colour)}" aria-hidden="true">{look.sign}</span> '
            f"{in_html(label)}</span>"
            for label, look in self.legend
        ]
        return (
            f'<p class="legend" style="display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.3rem 0">{"".join(keys)}</p>'
        )

    def _repr_markdown_(self) -> str:
        """The picture by its file's name, caption, data and runs."""
        return (
            f"![{plain(self.title)}]({self.name}.svg)\n\n**{plain(self.title)}.** {plain(self.caption)} "
            f"[data (CSV)]({self.name}.csv) · [PNG]({self.name}.png) · runs: {', '.join(self.runs)}\n"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Everything a notebook or a report shows or writes."""
        files = {"svg": self.svg, "png": base64.b64encode(self.png).decode(), "csv": self.csv}
        return {
            "text/plain": f"{self.title}: {self.name}",
            "text/html": self._repr_html_(),
            "text/markdown": self._repr_markdown_(),
            MIME: {"name": self.name, "title": self.title, **files},
        }


def runs_html(runs: Sequence[str]) -> str:
    """The ids of runs, folded away, each a link to its row in the table of runs."""
    links = ", ".join(f'<a href="#run-{in_html(run)}">{in_html(run)}</a>' for run in runs)
    return f"<details><summary>{len(runs)} run{'s' * (len(runs) != 1)}</summary>{links}</details>"


def plain(text: str) -> str:
    """Text that means itself in Markdown and in the HTML that it may hold."""
    return in_markdown(text).replace("\n", "<br>")


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each series, by its position: colour and marker together, and another line after each seven."""
    return {
        label: Look(SERIES[i % 7], *MARKERS[i % 7], LINES[i // 7 % 4]) for i, label in enumerate(dict.fromkeys(labels))
    }


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever settings this machine has."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def build(
    name: str,
    title: str,
    caption: str,
    panels: Sequence[Panel],
    data: pd.DataFrame,
    runs: Sequence[str],
    legend: dict[str, Look] | None = None,
    columns: int = 2,
    size: tuple[float, float] = (3.7, 2.6),
) -> Figure:
    """Draw each panel for a page, and all of them together for files; `size` in inches of one panel."""
    keys = tuple((legend or {}).items())
    with style():
        single = tuple(
            inline(svg_of(draw([panel], 1, size, ()), f"{name}-{i}"), f"{title}: {panel.title}", f"{name}-{i}")
            for i, panel in enumerate(panels)
        )
        columns = min(columns, len(panels))
        whole = draw(panels, columns, size, keys)
        svg = on_card(svg_of(whole, name))
        png = io.BytesIO()
        whole.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Figure(name, title, caption, svg, png.getvalue(), single, columns, keys, data, tuple(runs))


def draw(panels: Sequence[Panel], columns: int, size: tuple[float, float], legend: Sequence[tuple[str, Look]]) -> Any:
    """A matplotlib Figure of the panels, with the legend below them."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    lines = -(-len(panels) // columns)
    extra = 0.3 * -(-len(legend) // 4)
    figure = Canvas(figsize=(size[0] * columns, size[1] * lines + extra), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_title(textwrap.fill(panel.title, 48))
        panel.draw(axis)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    if legend:
        handles = [
            Line2D([], [], color=look.colour, marker=look.marker, ls=look.line, label=label) for label, look in legend
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(legend)), fontsize=8)
    return figure


def svg_of(figure: Any, salt: str) -> str:
    """SVG whose ids depend on `salt` alone, so that many stand on one page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return out.getvalue()


def on_card(svg: str) -> str:
    """The SVG file with a light card behind it, readable wherever it is put."""
    return re.sub(r"(<svg [^>]*>)", r'\1\n <rect width="100%" height="100%" rx="4" fill="#ffffff"/>', svg, count=1)


def inline(svg: str, label: str, prefix: str) -> str:
    """SVG as a part of an HTML page: no prolog, no global style, no unused ids, the page's own ink and font."""
    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', body)
    assert view is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.S)
    used = set(re.findall(r"#([\w.-]+)[\")]", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    for colour in (*SERIES, SOFT, GRID):
        body = re.sub(colour, page_colour(colour), body, flags=re.I)
    body = re.sub(r"font-family: [^;\"]+|(?<=px )'DejaVu Sans'[^;\"]*", lambda m: page_font(m[0]), body)
    body = re.sub(r">\s+<", ">\n<", body)
    start = (
        f'<svg viewBox="{view[1]}" role="img" aria-label="{in_html(label)}" width="100%" '
        'style="stroke-linejoin:round;stroke-linecap:butt;display:block">'
    )
    return start + body.strip()


def page_colour(colour: str) -> str:
    """The page's colour for one of ours; a page in dark has lighter ones of the same hue."""
    names = {INK: "currentColor", SOFT: f"var(--soft, {SOFT})", GRID: f"var(--grid, {GRID})"}
    names |= {series: f"var(--series-{i}, {series})" for i, series in enumerate(SERIES[:-1], 1)}
    return names[colour]


def page_font(found: str) -> str:
    """The page's font in place of the one that the drawing was measured with."""
    return "font-family: inherit" if found.startswith("font-family") else "inherit"
