"""What W&B's documented environment variables say: used where the settings leave it open, else said to be unused."""

from __future__ import annotations

import os
from typing import Any

from dpo.errors import check_project, check_tags, check_word

OFF = ("disabled", "offline", "dryrun")
UNUSED = {
    "WANDB_DIR": "output_root says where W&B's files lie, which is <output_root>/wandb",
    "WANDB_DATA_DIR": "output_root says where W&B's files lie, which is <output_root>/wandb",
    "WANDB_NAME": "a run is called as its folder is",
    "WANDB_JOB_TYPE": "a run's job type is train",
    "WANDB_RUN_ID": "every attempt has an id of its own, which is in tracker.json",
    "WANDB_RESUME": "every attempt is a W&B run of its own; the run itself resumes from its checkpoint",
    "WANDB_FORK_FROM": "every attempt is a W&B run of its own",
    "WANDB_RESUME_FROM": "every attempt is a W&B run of its own",
    "WANDB_HOST": "no name of a machine is sent",
    "WANDB_CONSOLE": "what a run prints is not sent",
}
"""Variables that are not used, and what is in their place."""
OF_AGENT = ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_DATA_DIR")
"""Set by a W&B agent for each of its runs, not by a person."""
HARMFUL = ("WANDB_RESUME", "WANDB_FORK_FROM", "WANDB_RESUME_FROM")
"""What the client would obey although it is not used."""
SAID: set[str] = set()
"""Variables that this process has spoken of."""


def applied(tracker: Any) -> Any:
    """The tracker's settings with the environment's for those that are left at their defaults.

    WANDB_MODE and WANDB_DISABLED only ever switch off; nothing is sent that tracker=online does not ask for. Raises
    UsageError for a value that W&B cannot have.
    """
    if not isinstance(tracker, dict) or tracker.get("mode") == "disabled":
        return tracker
    made = dict(tracker)
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        made["mode"] = "disabled"
    elif mode in OFF:
        made["mode"] = "offline"
    if made.get("project") == "dpo" and (project := os.environ.get("WANDB_PROJECT")):
        made["project"] = check_project("WANDB_PROJECT", project)
    for key, variable in (("entity", "WANDB_ENTITY"), ("group", "WANDB_RUN_GROUP")):
        if made.get(key) is None and (word := os.environ.get(variable)):
            made[key] = check_word(variable, word)
    if made.get("tags") == [] and (tags := os.environ.get("WANDB_TAGS")):
        made["tags"] = check_tags("WANDB_TAGS", [tag.strip() for tag in tags.split(",")])
    return made


def unused(tracker: dict[str, Any]) -> list[str]:
    """A line for each variable that is set and not used, once in a process; takes those away that would do harm."""
    said = []
    agent = bool(os.environ.get("WANDB_SWEEP_ID"))
    for variable, instead in UNUSED.items():
        if os.environ.get(variable) and variable not in SAID and not (agent and variable in OF_AGENT):
            said.append(f"{variable} is not used: {instead}")
            SAID.add(variable)
        if variable in HARMFUL:
            os.environ.pop(variable, None)
    given = (
        ("WANDB_PROJECT", "project"),
        ("WANDB_ENTITY", "entity"),
        ("WANDB_RUN_GROUP", "group"),
        ("WANDB_TAGS", "tags"),
    )
    for variable, key in given:
        value, ours = os.environ.get(variable), tracker[key]
        theirs: Any = [tag.strip() for tag in value.split(",")] if value and key == "tags" else value
        if value and theirs != ours and variable not in SAID:
            said.append(f"{variable}={value} is not used: tracker.{key}={ours} says otherwise")
            SAID.add(variable)
    if (
        os.environ.get("WANDB_MODE", "").lower() == "online"
        and tracker["mode"] != "online"
        and "WANDB_MODE" not in SAID
    ):
        said.append("WANDB_MODE=online is not used: tracker=online sends a run to the server")
        SAID.add("WANDB_MODE")
    return said
