"""run.yaml read back as plain values, whatever somebody or something did to it meanwhile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dpo.errors import UsageError
from dpo.json_files import Damaged, what_is_wrong

GROUPS = ("model", "dataset", "beta", "loss", "optim", "train", "tracker")
"""Every configuration has had these groups; one that was cut off lacks some."""
DEEPEST = 200
"""Levels beyond which no configuration is nested; the fast loader has no bound and would end the process."""


def read_saved(path: Path) -> dict[str, Any]:
    """The nested plain values of a run.yaml; raises UsageError where there is none, Damaged where it is none."""
    import yaml

    if not path.is_file():
        raise UsageError(f"{path}: no such file; is this a run directory?")
    try:
        text = path.read_text(encoding="utf-8")
        if depth(text) > DEEPEST:
            raise Damaged(path, "is nested deeper than any configuration")
        plain = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        json.dumps(plain)  # what YAML has beyond plain values, such as dates and loops, no configuration holds
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise Damaged(path, f"is no configuration: {error.problem}{where}") from error
    except Damaged:
        raise
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise Damaged(path, what_is_wrong(error)) from error
    if not isinstance(plain, dict):
        raise Damaged(path, "holds no configuration")
    wrong = [name for name in GROUPS if not isinstance(plain.get(name), dict)]
    wrong += [name for name in ("output_root", "cache_root") if not isinstance(plain.get(name), str)]
    if wrong:
        raise Damaged(path, f"is damaged: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or no group")
    return plain


def depth(text: str) -> int:
    """At least as many levels as YAML could find in a text: open brackets, and dashes and spaces in a row."""
    level = most = 0
    for sign in re.findall(r"[\[{}\]]", text):
        level = max(0, level + (1 if sign in "[{" else -1))
        most = max(most, level)
    row = max((len(found.replace(" ", "")) for found in re.findall(r"^(?: *[-?:] )+", text, re.MULTILINE)), default=0)
    return max(most, row, max((len(found) for found in re.findall(r"^ +", text, re.MULTILINE)), default=0))
