"""W&B's environment variables are used where the settings leave it open, or said to be unused; nothing is lost late."""

import pytest

from dpo.config import identity, load
from dpo.errors import UsageError
from dpo.sweep import read
from dpo.tracking import environment
from dpo.tracking.environment import UNUSED, applied, unused

USED = {"WANDB_PROJECT": "mine", "WANDB_ENTITY": "team", "WANDB_RUN_GROUP": "g7", "WANDB_TAGS": "t7, t8"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of W&B's, and nothing said yet."""
    import os

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "SAID", set())


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_what_is_left_open_is_the_environments_in_runs_and_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run is the same run."""
    before = identity(load([]).plain)
    given(monkeypatch, **USED)
    wanted = ("mine", "team", "g7", ["t7", "t8"])
    for plain in (load([]).plain, read(None, ["seed=0,1"]).jobs[1].plain):
        t = plain["tracker"]
        assert (t["project"], t["entity"], t["group"], t["tags"]) == wanted and unused(t) == []
    assert identity(load([]).plain) == before


def test_what_the_settings_say_counts_and_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each variable, with the key that says otherwise."""
    given(monkeypatch, **USED)
    own = load(["tracker.project=p", "tracker.entity=e", "tracker.group=g", "tracker.tags=[t]"]).plain["tracker"]
    assert (own["project"], own["entity"], own["group"], own["tags"]) == ("p", "e", "g", ["t"])
    lines = unused(own)
    assert len(lines) == 4 and all("says otherwise" in line for line in lines) and unused(own) == []


@pytest.mark.parametrize("variable", UNUSED)
def test_what_is_not_used_is_said(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each documented variable, once."""
    given(monkeypatch, **{variable: "x"})
    [line] = unused(load([]).plain["tracker"])
    assert line.startswith(f"{variable} is not used: ")


def test_an_agents_own_variables_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets them for each run."""
    given(monkeypatch, WANDB_SWEEP_ID="s", WANDB_RUN_ID="r", WANDB_DIR="/x")
    assert unused(load([]).plain["tracker"]) == []


@pytest.mark.parametrize(
    ("asked", "variables", "mode"),
    [
        ("offline", {"WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_DISABLED": "true"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_MODE": "online"}, "offline"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
        ("online", {}, "online"),
    ],
)
def test_the_environment_switches_off_and_never_on(
    asked: str, variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent that the command did not ask for."""
    given(monkeypatch, **variables)
    made = load([f"tracker={asked}"]).plain["tracker"]
    assert made["mode"] == mode
    assert bool(unused(made)) == (variables == {"WANDB_MODE": "online"})


@pytest.mark.parametrize(
    ("overrides", "variables", "key"),
    [
        ([f"tracker.tags=[{'x' * 65}]"], {}, "tracker.tags"),
        (["tracker.tags=['']"], {}, "tracker.tags"),
        (["tracker.tags=['a\nb']"], {}, "tracker.tags"),
        ([f"tracker.project={'x' * 129}"], {}, "tracker.project"),
        (["tracker.project=''"], {}, "tracker.project"),
        (["tracker.project='a/b'"], {}, "tracker.project"),
        (["tracker.entity='a b'"], {}, "tracker.entity"),
        ([f"tracker.group={'x' * 129}"], {}, "tracker.group"),
        (["tracker.group=''"], {}, "tracker.group"),
        ([], {"WANDB_TAGS": "a,,b"}, "WANDB_TAGS"),
        ([], {"WANDB_TAGS": "x" * 65}, "WANDB_TAGS"),
        ([], {"WANDB_PROJECT": "a:b"}, "WANDB_PROJECT"),
        ([], {"WANDB_RUN_GROUP": "x" * 200}, "WANDB_RUN_GROUP"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_anything_runs(
    overrides: list[str], variables: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By key or variable, in one line."""
    given(monkeypatch, **variables)
    with pytest.raises(UsageError, match=key) as caught:
        load(overrides)
    assert "\n" not in str(caught.value)


def test_what_is_accepted_is_accepted_by_the_client() -> None:
    """Its own checks, at the ends of the ranges."""
    from wandb import Settings

    tracker = load([f"tracker.tags=[{'x' * 64},y]", f"tracker.project={'p' * 128}", "tracker.entity=a-b_c"]).tracker
    Settings(project=tracker.project, entity=tracker.entity, run_tags=tuple(tracker.tags))


def test_no_tracker_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """tracker=disabled is left as it is, also beside a variable that W&B could not have."""
    given(monkeypatch, WANDB_TAGS="x" * 65)
    assert load(["tracker=disabled"]).plain["tracker"] == applied(load(["tracker=disabled"]).plain["tracker"])
