"""What a report's page says, read from its HTML alone."""

import html
import re
from pathlib import Path

ESTIMATE = re.compile(r"^(\S+) \[(\S+), (\S+)\] n=(\d+)")
"""A printed estimate: value, bounds, n."""


def tables(page: Path) -> dict[str, list[dict[str, str]]]:
    """Text of every table by its data-name: a dict per row, by column."""
    found = {}
    for name, text in re.findall(r'<table class="t-table" data-name="([^"]+)">(.*?)</table>', page.read_text(), re.S):
        columns = [strip(cell) for cell in re.findall(r"<th [^>]*>(.*?)</th>", text, re.S)]
        rows = [
            re.findall(r"<td [^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
        ]
        found[name] = [dict(zip(columns, map(strip, row), strict=True)) for row in rows if row]
    return found


def strip(text: str) -> str:
    """Text without tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()
