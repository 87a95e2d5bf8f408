"""The commands as a stranger types them: output on stdout, words on stderr, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpo.__main__ import main, parse
from dpo.records import RunDir

from .conftest import SMALL
from .processes import DPO, Python


def test_help_loads_nothing_heavy() -> None:
    """`dpo --help` must be instant: torch, transformers and hydra stay out."""
    code = "import sys, dpo.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([n for n in ('torch', 'transformers', 'hydra', 'wandb', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("verb", ["train", "preview", "audit", "judge", "runs", "score", "compare", "reproduce"])
def test_every_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help texts end with a command to copy."""
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"Example: dpo {verb}" in " ".join(capsys.readouterr().out.split())


def test_overrides_may_stand_on_both_sides_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """As Hydra's users type them; an unknown option is still refused."""
    args = parse(["train", "seed=1", "-m", "beta.value=0.1,0.3"])
    assert args.multirun and args.overrides == ["seed=1", "beta.value=0.1,0.3"]
    for wrong in (["train", "seed=1", "--multi-run"], ["runs", "outputs", "seed=1"]):
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_train_prints_the_run_directory_last_on_stdout(cache: Path, tmp_path: Path, capsys) -> None:
    """For scripts; and the second call says it is finished, prints it again and exits 0."""
    command = ["train", *SMALL, f"cache_root={cache}", f"output_root={tmp_path}"]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert RunDir(Path(printed)).status()["state"] == "done" and (Path(printed) / "curves.svg").is_file()
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out.splitlines()[-1] == printed and "already finished" in again.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "p", "chosen": "a"}\n', ":1: no rejected"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt"\n', ":2: not JSON"),
        ('{"prompt": "p", "chosen": "", "rejected": "b"}\n', ":1: chosen is empty"),
        ('{"prompt": "p", "chosen": 3, "rejected": "b"}\n', ":1: chosen is a int"),
        ("[1]\n", ":1: begins a JSON array"),
        (
            '{"prompt": [{"content": "x"}], "chosen": "a", "rejected": "b"}\n',
            ":1: prompt holds a message without a role",
        ),
        ("", "no rows"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(
    content: str, said: str, tmp_path: Path, cache: Path, capsys
) -> None:
    """Exit 2, one line, no run directory."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(content)
    command = ["train", *SMALL, "dataset=files", f"dataset.path={file}", f"cache_root={cache}"]
    assert main([*command, f"output_root={tmp_path / 'out'}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"dpo: {file}") and said in lines[-1]
    assert not list((tmp_path / "out").rglob("run.yaml"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset=files", "dataset.path=/no/such/file.jsonl"], "no such file"),
        (["dataset=files"], "dataset.path is not set"),
        (["train.max_length=4"], "leaves no token for an answer; raise train.max_length"),
        (["model=hf", "model.path=/no/such/folder"], "no such folder"),
        (["train.device=cuda:99"], "train.device=cuda:99"),
        (["adapter=partial", "adapter.blocks=9"], "adapter.blocks=9: the model has 2 blocks"),
        (["adapter=lora_qv", "adapter.target=nothing"], "adapter.target=nothing"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    overrides: list[str], said: str, tmp_path: Path, cache: Path, capsys
) -> None:
    """Whatever the room it is found in."""
    model = ["tracker=disabled"] if "model=hf" in overrides else SMALL
    assert main(["train", *model, *overrides, f"cache_root={cache}", f"output_root={tmp_path}"]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path: Path, finished: RunDir, capsys) -> None:
    """Weights alone are not enough."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((Path(finished.read("provenance")["start"]) / name).read_bytes())
    assert main(["train", "model=hf", f"model.path={folder}", f"output_root={tmp_path}", "tracker=disabled"]) == 2
    assert f"no tokenizer could be loaded from {folder}" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_output_root_that_cannot_be_written_is_refused(tmp_path: Path, cache: Path, capsys) -> None:
    """Before anything is trained."""
    file = tmp_path / "file"
    file.write_text("")
    assert main(["train", *SMALL, f"cache_root={cache}", f"output_root={file}/x"]) == 2
    said = capsys.readouterr().err
    assert "cannot make the folder" in said and "give another output_root" in said


def pairs_of_twelve(path: Path) -> Path:
    """The capstone's triples as a file."""
    from dpo.data.twelve import Twelve

    rows = [{"id": p.id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in Twelve().load().train]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_score_in_a_fresh_process_agrees_with_the_last_evaluation(finished: RunDir, tmp_path: Path) -> None:
    """The adapter attached to its start again gives the run's own numbers to 1e-4."""
    file = pairs_of_twelve(tmp_path / "pairs.jsonl")
    process = Python(DPO, "score", str(finished.path), str(file))
    scored, last = json.loads(process.communicate()[0]), finished.read("summary")["last"]
    for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert scored[name] == pytest.approx(last[f"eval/{name}"], abs=1e-4)


def test_score_agrees_for_full_fine_tuning_too(small, tmp_path: Path, capsys) -> None:
    """There the checkpoint is a whole model."""
    from dpo.run import run

    directory, _ = run(small())
    assert main(["score", str(directory.path), str(pairs_of_twelve(tmp_path / "pairs.jsonl"))]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["rewards/margins"] == pytest.approx(
        directory.read("summary")["last"]["eval/rewards/margins"], abs=1e-4
    )


def test_reproduce_finds_every_row_equal(finished: RunDir, capsys) -> None:
    """From run.yaml alone, bit for bit on a CPU."""
    assert main(["reproduce", str(finished.path)]) == 0
    assert "9 metric rows, all equal bit for bit" in capsys.readouterr().err


def test_reproduce_names_what_differs(finished: RunDir, tmp_path: Path, capsys) -> None:
    """A changed number is found: exit code 1 and the row."""
    import shutil

    copy = tmp_path / finished.path.name
    shutil.copytree(finished.path, copy)
    rows = (copy / "metrics.jsonl").read_text().splitlines()
    changed = json.loads(rows[2]) | {"train/loss": 0.5}
    (copy / "metrics.jsonl").write_text("\n".join([*rows[:2], json.dumps(changed), *rows[3:]]) + "\n")
    assert main(["reproduce", str(copy)]) == 1
    assert "row 3 differs in train/loss" in capsys.readouterr().err


def test_runs_lists_each_run_with_its_state(finished: RunDir, capsys) -> None:
    """Named, with its last evaluation."""
    assert main(["runs", str(finished.path.parents[1])]) == 0
    said = capsys.readouterr().out
    assert "twelve-sigmoid-beta0.1" in said and "done" in said


def test_compare_shows_recorded_and_fresh_answers(finished: RunDir, capsys) -> None:
    """Three columns for recorded prompts, and for a prompt given now."""
    assert main(["compare", str(finished.path)]) == 0
    assert "Capital" in capsys.readouterr().out
    assert main(["compare", str(finished.path), "--prompt", "Hello there"]) == 0
    assert "Hello there" in capsys.readouterr().out


def test_preview_loads_no_model(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Tokens and masks need the tokenizer only."""
    import dpo.models.pretrained
    import dpo.models.tiny

    def forbidden(*_: object, **__: object) -> torch.nn.Module:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(dpo.models.pretrained, "load_model", forbidden)
    monkeypatch.setattr(dpo.models.tiny, "fit", forbidden)
    assert main(["preview", "--pairs", "1", "dataset=twelve", "model=tiny_byte", f"cache_root={cache}"]) == 0
    assert "chosen" in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", [["score", "/nowhere", "x.jsonl"], ["runs", "/nowhere"], ["compare", "/nowhere"], ["reproduce", "/nowhere"]]
)
def test_a_directory_that_is_no_run_is_refused(verb: list[str], capsys) -> None:
    """One line and exit 2 for every verb that reads runs."""
    assert main(verb) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
