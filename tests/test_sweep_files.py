"""The questions that ship: each composes, asks with seeds, and says what it costs; their W&B files ask the same."""

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpo.compose import Primary, composer
from dpo.config import conf_dir, identity, parse
from dpo.sweep import Job, find, names, read, sweeps_dir
from dpo.wandb_sweeps import sweep_file

NAMES = names()


@functools.cache
def asked(name: str) -> tuple[Job, ...]:
    """The jobs of a question as it ships; to be read only."""
    return tuple(read(name, []).jobs)


def text(name: str) -> str:
    return find(name).read_text()


def skip_without_its_options(name: str) -> None:
    """A question may name options of groups that this checkout does not have."""
    content = yaml.safe_load(text(name))
    chosen = [next(iter(d.items())) for d in content["defaults"] if isinstance(d, dict)]
    wanted = [(key.removeprefix("override ").strip("/ "), str(option)) for key, option in chosen]
    for key, values in content["hydra"]["sweeper"]["params"].items():
        if "." not in key and key != "seed":
            wanted += [(key, option) for option in str(values).split(",")]
    for group, option in wanted:
        if not (conf_dir() / group / f"{option}.yaml").is_file():
            pytest.skip(f"conf/{group}/{option}.yaml is not there")


def test_every_question_of_the_list_is_there() -> None:
    """Eleven questions and the demo."""
    there = "arms base_strength beta beta_x_lr data_size demo label_noise length_bias loss_variants"
    assert [*there.split(), "reference_strength", "seeds", "update_strategy"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_question_stands_in_the_first_line_and_its_budget_below(name: str) -> None:
    """A question mark, then runs and minutes; the number of runs is right."""
    head = [line for line in text(name).splitlines() if line.startswith("#")]
    assert "?" in head[0]
    budget = next(line for line in head if line.startswith("# Budget: "))
    skip_without_its_options(name)
    assert int(re.findall(r"(\d+) runs", budget)[0]) == len(asked(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_question_is_asked_with_three_seeds_at_least(name: str) -> None:
    """And every grid point with each of them."""
    skip_without_its_options(name)
    seeds: dict[str, set[int]] = {}
    for job in asked(name):
        seeds.setdefault(identity(job.plain | {"seed": None}), set()).add(job.plain["seed"])
    assert all(len(of_point) >= 3 for of_point in seeds.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_question_can_be_asked_of_a_real_model(name: str, tmp_path: Path) -> None:
    """`model=hf model.path=...` composes wherever the question is not about the embedded model itself."""
    skip_without_its_options(name)
    if name in ("base_strength", "reference_strength"):
        pytest.skip("a question about the embedded models")
    assert read(name, ["model=hf", f"model.path={tmp_path}"]).jobs


@pytest.mark.parametrize("name", NAMES)
def test_the_wandb_file_is_the_one_made_from_the_question(name: str) -> None:
    """`python -m dpo.wandb_sweeps` makes it; nobody edits it."""
    assert (sweeps_dir() / "wandb" / f"{name}.yaml").read_text() == sweep_file(name)


def command_lines(content: dict[str, Any]) -> list[list[str]]:
    """What an agent would execute for each grid point, by the client's own rendering."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    keys = list(content["parameters"])
    lines = []
    for point in itertools.product(*(content["parameters"][key]["values"] for key in keys)):
        given = {"args": {key: {"value": value} for key, value in zip(keys, point, strict=True)}}
        rendered = create_sweep_command_args(given)
        line: list[str] = []
        for part in create_sweep_command(list(content["command"])):
            name = re.fullmatch(r"\$\{(\w+)\}", part)
            line += rendered.get(name[1], []) if name else [part]  # type: ignore[arg-type]
        lines.append(line)
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_the_command_lines_of_an_agent_are_the_jobs_of_the_question(name: str) -> None:
    """Rendered by wandb, composed by Hydra: the same ids, so the same directories."""
    skip_without_its_options(name)
    lines = command_lines(yaml.safe_load(sweep_file(name)))
    assert all(line[:5] == ["-m", "dpo", "sweep", name, "tracker=online"] for line in lines)
    compose = composer(Primary(find(name)))
    assert [identity(parse(compose(line[4:])).plain) for line in lines] == [job.id for job in asked(name)]


def test_one_command_line_of_an_agent_is_one_job_of_the_sweep() -> None:
    """`dpo sweep beta tracker=online beta.value=0.3 seed=2`: same name, same folder."""
    [job] = read("beta", ["tracker=online", "beta.value=0.3", "seed=2"]).jobs
    assert (job.id, job.name) in [(j.id, j.name) for j in asked("beta")]
