"""No module comes from the working directory: whoever looks at a received folder of runs may stand in it."""

from __future__ import annotations

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""The folder that holds this package: a checkout may be the working directory, and its code is the one that runs."""


def leave_out_working_directory() -> None:
    """Take the working directory out of the module path of this process and of every Python that it starts.

    It gets there by `python -m`, by an empty or relative entry of PYTHONPATH, and in a notebook's kernel. A plug-in
    that lies there can only be meant where the command itself says so.
    """
    sys.path[:] = [entry for entry in sys.path if not is_working_directory(entry)]
    os.environ["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if not is_working_directory(entry))


def is_working_directory(entry: str) -> bool:
    """Whether an entry of a module path leads to the working directory, and not to this package's own code."""
    try:
        return os.path.realpath(entry or os.curdir) == os.path.realpath(os.getcwd()) != HOME
    except OSError:  # the working directory was removed
        return not entry
