"""The page in a real browser: figures, tables, ids; no request, no error, no script but its own; both widths."""

from pathlib import Path

import pytest

from tests.browser import visit
from tests.results.small_sweep import NASTY

WIDTHS = [(1200, 900), (390, 844)]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize(("width", "height"), WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_asks_no_host_for_anything_and_its_console_is_silent(
    page: Path, width: int, height: int, dark: bool
) -> None:
    """The file itself is the only request; no error, no refused script; nothing sticks out sideways."""
    seen = visit(page, OVERFLOW, width=width, height=height, dark=dark)
    assert seen.requests == [page.resolve().as_uri()]
    assert seen.console == [] and seen.values == [0]


def test_what_a_model_wrote_is_text(page: Path) -> None:
    """A completion, a question and an error with markup are shown as they stand, and nothing of them ran."""
    count = "document.querySelectorAll('img, iframe, script').length"
    texts = "[...document.querySelectorAll('td')].filter(c => c.textContent.includes('owned')).map(c => c.textContent)"
    seen = visit(page, "document.title", count, texts, "document.querySelector('.question').textContent")
    title, found, cells, question = seen.values
    assert "DPO report" in title and found == 1
    assert NASTY.strip() in cells and any(text.startswith("FloatingPointError") for text in cells)
    assert question == "Does <b>beta</b> matter?"


def test_a_script_that_were_not_escaped_could_not_run(page: Path, tmp_path: Path) -> None:
    """The page's policy allows its own script by hash alone."""
    broken = tmp_path / "page.html"
    broken.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'owned'</script>", 1))
    seen = visit(broken, "document.title")
    assert seen.values != ["owned"] and any("Content Security Policy" in line for line in seen.console)


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_figures_are_drawn_at_their_place(page: Path, width: int, height: int) -> None:
    """Each has its panels inside the width of the page, a caption, its data, its runs."""
    script = """[...document.querySelectorAll('figure')].map(f => {
      const boxes = [...f.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
      return [f.id, boxes.length, Math.min(...boxes.map(b => b.width)), Math.max(...boxes.map(b => b.right)),
              f.querySelector('figcaption').textContent.length, f.querySelectorAll('a[download]').length,
              f.querySelectorAll('details a').length]; })"""
    (figures,) = visit(page, script, width=width, height=height).values
    names = [figure[0] for figure in figures]
    assert {"fig-beta", "fig-frontier", "fig-curves", "fig-length-classes", "fig-reliability"} <= set(names)
    assert len(names) == len(set(names))
    for name, panels, least, right, caption, links, runs in figures:
        assert panels >= 1 and least > 200 and right <= width and caption > 80 and links == 1 and runs >= 1, name


def test_tables_sort_by_their_buttons(page: Path) -> None:
    """Up, then down, as numbers; the header says which way; the keyboard reaches it."""
    script = """(() => {
      const table = document.querySelector('table[data-name=by-arm]');
      const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.includes('reward margin'));
      const head = table.tHead.rows[0].cells[column];
      const values = () => [...table.tBodies[0].rows].map(r => Number(r.cells[column].dataset.sort));
      const seen = [];
      for (let i = 0; i < 2; i++) { head.querySelector('button').click(); seen.push([head.ariaSort, values()]); }
      return [seen, head.querySelector('button').tabIndex, document.querySelectorAll('th[aria-sort]').length]; })()"""
    ((seen, tab, marked),) = visit(page, script).values
    (up, rising), (down, falling) = seen
    assert (up, down, tab, marked) == ("ascending", "descending", 0, 1)
    assert rising == sorted(rising) and falling == sorted(rising, reverse=True) and len(set(rising)) == 2


def test_a_cell_tells_its_runs(page: Path, small_sweep: Path) -> None:
    """By its title on hover; by a click with links to rows of the table of runs; Escape closes."""
    script = """(() => {
      const cell = document.querySelector('table[data-name=by-arm] td.t-estimate');
      cell.click();
      const box = document.getElementById('who');
      const found = a => !!document.querySelector(a.getAttribute('href'));
      const links = [...box.querySelectorAll('a')].map(a => [a.textContent, found(a)]);
      const open = !box.hidden;
      document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
      return [cell.title, links, open, box.hidden]; })()"""
    ((title, links, opened, closed),) = visit(page, script).values
    assert len(links) == 2 and all(found for _, found in links) and opened and closed
    assert all(run in title for run, _ in links)


def test_every_runs_id_stands_on_the_page(page: Path, small_sweep: Path) -> None:
    """Finished or not, as visible text of the table of runs."""
    (text,) = visit(page, "document.querySelector('table[data-name=runs]').innerText").values
    ids = [path.parent.name[-8:] for path in small_sweep.glob("*/status.json")]
    assert len(ids) == 5 and all(run in text for run in ids)


def test_the_contents_lead_to_every_section(page: Path) -> None:
    """Each link has a target, each section a link."""
    script = """[[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.getAttribute('href'))),
      [...document.querySelectorAll('h2')].map(h => !!document.querySelector(`nav a[href="#${h.id}"]`))]"""
    ((links, sections),) = visit(page, script).values
    assert len(links) > 8 and all(links) and len(sections) > 5 and all(sections)


def test_no_id_is_given_twice(page: Path) -> None:
    """Figures, headings and rows share one page."""
    ids = "[...document.querySelectorAll('[id]')].map(e => e.id)"
    (found,) = visit(page, ids).values
    assert len(found) == len(set(found))


def test_dark_and_light_differ_and_both_can_be_read(page: Path) -> None:
    """Text against its ground at a ratio of at least 7 to 1, links at 4.5, in both."""
    script = """['body', '.facts', 'a', 'figcaption'].map(q => getComputedStyle(document.querySelector(q)).color)
      .concat(getComputedStyle(document.body).backgroundColor)"""
    grounds = []
    for dark in (False, True):
        (colours,) = visit(page, script, dark=dark).values
        *inks, ground = map(luminance, colours)
        grounds.append(ground)
        ratios = [(max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) for ink in inks]
        assert ratios[0] > 7 and min(ratios) > 4.5
    assert grounds[0] > 0.9 and grounds[1] < 0.1


def luminance(colour: str) -> float:
    """Relative luminance of an rgb(r, g, b) colour (WCAG 2)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
