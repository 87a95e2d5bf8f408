"""What Hydra's grammar allows works the same in train, -m, plan and sweep, or is refused by name in one line."""

from pathlib import Path

import pytest
import yaml

from dpo.compose import Primary, conf_dir, without_settings
from dpo.config import dump, identity, load
from dpo.errors import UsageError
from dpo.hydra_settings import refuse_unused
from dpo.sweep import names, read, sweeps_dir

HEAD = "# q\ndefaults: [config, _self_]\nhydra:\n  sweeper:\n    params:\n      seed: 0\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of one's own experiments and losses, with signs in its name."""
    folder = tmp_path / "it's (mine), v=2 größer"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\noptim:\n  lr: 1e-3\n")
    (folder / "loss").mkdir()
    (folder / "loss" / "soft.yaml").write_text("defaults:\n  - sigmoid\n  - _self_\nlabel_smoothing: 0.1\n")
    return folder


def run_file(folder: Path, *overrides: str) -> Path:
    """A run's own run.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(dump(load(list(overrides)).plain))
    return folder


def one_line(caught: pytest.ExceptionInfo[UsageError]) -> str:
    """The message, which has one line and names no class of Python's."""
    said = str(caught.value)
    assert said and "\n" not in said and "Error" not in said.replace("UsageError", "") and "Exception" not in said
    return said


def test_options_of_ones_own_are_found_by_every_verb(mine: Path, tmp_path: Path) -> None:
    """hydra.searchpath of the command in train and grids, and of a sweep file; whatever the folder is called."""
    from hydra.core.override_parser.types import Quote, QuotedString

    given = f"hydra.searchpath=[{QuotedString(f'file://{mine}', Quote.single).with_quotes()}]"
    assert load([given, "experiment=mine", "loss=soft"]).optim.lr == 1e-3
    for name in (None, "beta"):
        jobs = read(name, [given, "experiment=mine", "loss=sigmoid,soft", "beta.value=0.1", "seed=0"]).jobs
        assert [job.plain["loss"]["label_smoothing"] for job in jobs] == [0.0, 0.1]
    assert read(None, [given, "experiment=mine", "seed=0"]).jobs[0].plain["optim"]["lr"] == 1e-3
    (tmp_path / "q.yaml").write_text(
        "# q\n"
        + yaml.safe_dump(
            {
                "defaults": ["config", "_self_"],
                "hydra": {"searchpath": [f"file://{mine}"], "sweeper": {"params": {"loss": "soft,ipo"}}},
            }
        )
    )
    assert len(read(str(tmp_path / "q.yaml"), []).jobs) == 2


def test_every_question_that_ships_sets_nothing_of_hydras_that_is_not_used() -> None:
    """So that composing what ships need not look again each time."""
    for path in [conf_dir() / "config.yaml", *(sweeps_dir() / f"{name}.yaml" for name in names())]:
        refuse_unused(Primary(path).composed([], with_hydra=True).hydra, without_settings(), str(path))


@pytest.mark.parametrize(
    "setting",
    [
        "hydra.run.dir=x",
        "hydra.sweep.dir=x",
        "hydra.sweep.subdir=x",
        "hydra.output_subdir=null",
        "+hydra.job.env_set.A=b",
        "hydra.job.chdir=true",
        "hydra.job.name=x",
        "hydra.verbose=true",
        "hydra.mode=MULTIRUN",
        "+hydra.callbacks.x._target_=y",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        "hydra/sweeper=optuna",
        "hydra.sweeper.max_batch_size=2",
        "hydra/help=default",
        "hydra.nothing=1",
        "~hydra.job.name",
        "hydra={}",
        "hydra.searchpath=[file:///no/such/folder]",
        "hydra.searchpath=3",
    ],
)
def test_settings_of_hydras_that_are_not_used_are_refused_by_name(setting: str) -> None:
    """In one run and in a grid alike."""
    for door in (load, lambda overrides: read(None, overrides), lambda overrides: read("beta", overrides)):
        with pytest.raises(UsageError) as caught:
            door([setting])
        assert setting.lstrip("+~").split("=")[0].split(".x.")[0] in one_line(caught)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("run: {dir: x}", "hydra.run.dir"),
        ("sweep: {dir: x}", "hydra.sweep.dir"),
        ("job: {chdir: true}", "hydra.job.chdir"),
        ("job: {env_set: {A: b}}", "hydra.job.env_set.A"),
        ("callbacks: {x: {_target_: y}}", "hydra.callbacks.x"),
    ],
)
def test_the_same_settings_in_a_file_are_refused_by_name(text: str, name: str, mine: Path, tmp_path: Path) -> None:
    """In an experiment and in a sweep file."""
    (mine / "experiment" / "mine.yaml").write_text(f"# @package _global_\nhydra:\n  {text}\n")
    source = Primary(conf_dir() / "config.yaml", [f"file://{mine}"])
    path = tmp_path / "q.yaml"
    path.write_text(HEAD + f"  {text}\n")
    from dpo.compose import composer

    for attempt in (lambda: composer(source)(["experiment=mine"]), lambda: read(str(path), [])):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert name in one_line(caught)


def test_a_launcher_is_for_grids_and_may_stand_in_an_experiment(mine: Path) -> None:
    """Said in train; used in a grid wherever it was chosen."""
    from dpo.sweep import hydra_of

    with pytest.raises(UsageError, match="hydra/launcher=stacked: says how the runs of a grid are started; add -m"):
        load(["hydra/launcher=stacked"])
    (mine / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: stacked\n"
    )
    path = f"hydra.searchpath=['{mine!s}']".replace("it's", r"it\'s")
    for overrides in ([path, "experiment=mine", "seed=0"], ["hydra/launcher=stacked", "seed=0"]):
        sweep = read(None, overrides)
        node = hydra_of(sweep.source, sweep.jobs[0].overrides).hydra.launcher
        assert node._target_.endswith("StackedLauncher")


@pytest.mark.parametrize(
    "option", ["loss=ipo", "adapter=lora_qv", "beta=annealed", "dataset=hand_authored", "judge=length"]
)
def test_a_runs_own_settings_with_another_option_of_a_group(option: str, tmp_path: Path) -> None:
    """The whole group is the option's, the rest the run's; values come after; a grid over both gives the same runs."""
    group = option.split("=")[0]
    folder = run_file(tmp_path / "run", "experiment=capstone", "seed=3")
    plain = load([option, "seed=4"], str(folder), "run").plain
    assert plain[group] == load(["experiment=capstone", option]).plain[group] and plain["seed"] == 4
    assert {k: v for k, v in plain.items() if k not in (group, "seed")} == {
        k: v for k, v in load([], str(folder), "run").plain.items() if k not in (group, "seed")
    }
    jobs = read(None, [option, "seed=4,5"], str(folder), "run").jobs
    assert [job.plain["seed"] for job in jobs] == [4, 5] and jobs[0].id == identity(plain)


@pytest.mark.parametrize(
    "override",
    ["experiment=capstone", "+loss=ipo", "~loss", "loss=no", "loss={a:1}", "loss=[ipo,sigmoid]", "loss@x=ipo"],
)
def test_what_a_runs_own_settings_cannot_have_is_refused(override: str, tmp_path: Path) -> None:
    """In one line."""
    folder = run_file(tmp_path / "run")
    with pytest.raises(UsageError) as caught:
        load([override], str(folder), "run")
    one_line(caught)


def test_files_that_are_no_primary_configuration_are_refused(tmp_path: Path) -> None:
    """An option of a group, defaults that lead back to themselves, no YAML, a list, nothing."""
    with pytest.raises(UsageError, match="capstone: is an option of a group; give it as experiment=capstone"):
        load([], str(conf_dir() / "experiment"), "capstone")
    files = {"config": HEAD, "list": "[1]", "torn": "a: {b", "empty": "", "bytes": "\x00\x01", "deep": "{a: " * 3000}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        for attempt in (
            lambda n=name: read(str(tmp_path / f"{n}.yaml"), []),
            lambda n=name: load([], str(tmp_path), n),
        ):
            with pytest.raises(UsageError) as caught:
                attempt()
            one_line(caught)


GRAMMAR = [
    ("seed=choice(0,1)", 2),
    ("seed=range(0,3)", 3),
    ("seed=range(0,10,5)", 2),
    ("loss=glob([ip*,hinge])", 3),
    ("seed=shuffle(0,1,2)", 3),
    ("seed=sort(2,0,reverse=true)", 2),
    ("seed=tag(mine,choice(0,1))", 2),
    ("++seed=0,1", 2),
    ("tracker.tags=[a,b]", 1),
    ("tracker.tags=[a],[b,c]", 1),
    ("~sft.lora_r", None),
    ("+new=1", None),
    ("seed=interval(0,1)", None),
    ("seed=range(0,1000000000)", None),
    ("seed=range(0,1,0)", None),
    ("seed=choice(0", None),
    ("a b=1", None),
    ("=1", None),
    ("", None),
    ("seed", None),
    ("loss@beta=ipo", None),
    ("seed=${seed}", None),
    ("seed=${oc.env:NOT_SET_AT_ALL}", None),
    ("seed=${no.such.resolver:1}", None),
    ("output_root='${'", None),
    ("experiment=[capstone,collapse]", 1),
    ("loss=[sigmoid,ipo]", None),
    ("loss={_target_:x}", None),
    ("train=[1,2]", None),
    ("judge=[nan]", None),
    ("seed=", None),
]


@pytest.mark.parametrize(("override", "count"), GRAMMAR)
def test_every_form_of_an_override_works_or_is_one_line(override: str, count: int | None) -> None:
    """In a grid; a single run takes what is no grid, and says -m for what is one."""
    if count is None:
        for door in (load, lambda overrides: read(None, overrides)):
            with pytest.raises(UsageError) as caught:
                door([override])
            one_line(caught)
        return
    assert len(read(None, [override]).jobs) == count
    if count > 1:
        with pytest.raises(UsageError, match="several values; add -m"):
            load([override])
