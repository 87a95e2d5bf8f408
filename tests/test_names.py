"""Names of sweeps, folders and runs: any that a file system takes works everywhere, or is refused in one line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.compose import conf_dir
from dpo.naming import LONGEST, run_name
from dpo.sweep import launch, read

HEAD = "# q\ndefaults: [config, _self_]\nhydra:\n  sweeper:\n    params:\n      seed: 0\n"
NAMES = [
    "my sweep (v2)",
    "beta=0.1,lr",
    "große Frage 語😀",
    'it\'s "so"',
    "-m [x]{y}",
    "a%b#c@d!~&;:*?<>|\\",
    "${oc.env:HOME}$x",
    "a.yaml.b.",
    "n" * 200,
    "two\nlines\t.",
]
"""What a file system takes, and shells, yaml, Hydra's grammar and interpolation have thoughts about."""


def told(sweep) -> list[int]:
    """The numbers that the launcher hands to a sweep's jobs."""
    numbers: list[int] = []
    launch(sweep, sweep.folder, [0], lambda threads, here: lambda settings: numbers.append(settings.job))
    return numbers


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_sweep_its_folder_and_its_root_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is planned is launched, and leaves nothing in the working directory, whose name may be any as well."""
    from hydra.core.override_parser.types import Quote, QuotedString

    place, root = tmp_path / name, tmp_path / "out" / name
    place.mkdir()
    monkeypatch.chdir(place)
    (place / f"{name}.yaml").write_text(HEAD)
    where = QuotedString(str(root).replace("${", r"\${"), Quote.single).with_quotes()
    sweep = read(str(place / f"{name}.yaml"), [f"output_root={where}"])
    assert sweep.name == name and sweep.folder == root / name
    assert told(sweep) == [0]
    assert [path.name for path in place.iterdir()] == [f"{name}.yaml"]


def test_a_conf_folder_of_any_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped options may lie below a folder with signs and letters beyond ASCII."""
    import shutil

    folder = tmp_path / "it's (v2), größer=${x} [1]" / "conf"
    shutil.copytree(conf_dir(), folder)
    monkeypatch.setenv("DPO_CONF", str(folder))
    (tmp_path / "q.yaml").write_text(HEAD)
    assert read(str(tmp_path / "q.yaml"), ["loss=ipo"]).jobs


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,30}\.[a-z_]{1,30}", fullmatch=True), st.text(max_size=60), max_size=40))
def test_a_runs_name_fits_a_file_system_whatever_was_swept(swept: dict[str, str]) -> None:
    """At most LONGEST ASCII characters, and the seed is not what is cut off."""
    name = run_name(swept | {"seed": "7"}, {"seed": 7})
    assert len(name.encode()) <= LONGEST and name.isascii() and name.endswith("seed7") and "/" not in name
