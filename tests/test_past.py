"""A run read later: from elsewhere, after its folders moved, without the code that its settings ask for."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from dpo import past
from dpo.config import load
from dpo.errors import UsageError
from dpo.models.adapters import Lora, save
from dpo.models.pretrained import Pretrained, load_model, load_tokenizer
from dpo.records import RunDir
from dpo.score import answer_prompt, score_pairs
from dpo.whereabouts import find
from tests import toys

X = torch.arange(1, 9)[None]
QV = Lora(2, 4, 0.0, "qv", "all", False)


def folder(path: Path, marker: str = "config.json") -> Path:
    """An empty model's folder."""
    path.mkdir(parents=True)
    (path / marker).write_text("{}")
    return path


@pytest.mark.parametrize(
    ("before", "near", "after"),
    [
        ("w/outputs/cache/models/sft", "w/results/runs/x", "w/results/cache/models/sft"),  # the root renamed
        ("w/outputs/cache/models/sft", "v/outputs/runs/x", "v/outputs/cache/models/sft"),  # the project moved
        ("models/base", "adapters/a", "base"),  # side by side
        ("w/outputs/cache/models/sft", "backup/x", "backup/x/outputs/cache/models/sft"),
    ],
)
def test_a_folder_that_moved_with_what_names_it_is_found(tmp_path, before, near, after):
    """By the end of its old path, below any folder above the one that names it."""
    there = folder(tmp_path / after)
    (tmp_path / near).mkdir(parents=True, exist_ok=True)
    assert find(tmp_path / before, tmp_path / near / "file", ("config.json",)) == there
    (there / "config.json").unlink()
    assert find(tmp_path / before, tmp_path / near / "file", ("config.json",)) is None


def test_a_cache_named_by_the_environment_is_looked_into(tmp_path, monkeypatch):
    """$DPO_CACHE/models."""
    there = folder(tmp_path / "c" / "models" / "sft")
    monkeypatch.setenv("DPO_CACHE", str(tmp_path / "c"))
    assert find(Path("/gone/cache/models/sft"), tmp_path / "x" / "y", ("config.json",)) == there


def a_run(path: Path, root: str, working_directory: Path | None, **model) -> RunDir:
    """As much of a run's directory as is asked."""
    path.mkdir(parents=True)
    plain = load(["experiment=capstone", f"output_root={root}", "cache_root=outputs/cache"]).plain
    plain["model"] |= model
    (path / "run.yaml").write_text(yaml.safe_dump(plain))
    facts = {"start": "outputs/cache/models/sft", "start_hash": "abc"}
    facts |= {"working_directory": str(working_directory)} if working_directory else {}
    (path / "provenance.json").write_text(json.dumps(facts))
    return RunDir(path)


@pytest.mark.parametrize("recorded", (True, False))
@pytest.mark.parametrize("root", ("outputs", "results"))
def test_relative_folders_are_those_of_the_runs_own_command(tmp_path, monkeypatch, recorded, root):
    """From another directory, whatever lies there under the same names, and after the root was renamed."""
    home = tmp_path / "home"
    run = a_run(home / root / "runs" / "x", "outputs", home if recorded else None)
    there = folder(home / root / "cache" / "models" / "sft")
    folder(tmp_path / "outputs" / "cache" / "models" / "sft")
    monkeypatch.chdir(tmp_path)
    assert past.home_of(run) == home and past.start_of(run) == str(there)
    assert past.settings(run).cache_root == str(home / root / "cache")


def test_a_start_that_is_gone_is_named_with_its_weights(tmp_path):
    """Which weights, where they were, and how to have them again."""
    run = a_run(tmp_path / "outputs" / "runs" / "x", "outputs", tmp_path)
    with pytest.raises(UsageError, match=r"the weights abc in .*cache/models/sft; .*dpo reproduce") as caught:
        past.start_of(run)
    assert "\n" not in str(caught.value)


def copy_of(finished: RunDir, tmp_path: Path, **model) -> RunDir:
    """A finished run whose settings ask for more."""
    run = RunDir(Path(shutil.copytree(finished.path, tmp_path / "copy")))
    plain = yaml.safe_load(run.config.read_text())
    plain["model"] |= model
    run.config.write_text(yaml.safe_dump(plain))
    return run


def evil(run: RunDir, mark: Path) -> dict:
    """A model's settings that bring code; running it leaves a mark."""
    path = run.path / "evil"
    shutil.copytree(run.checkpoint, path)
    code = {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil"}
    (path / "config.json").write_text(json.dumps(code))
    (path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    settings = {"path": str(path), "revision": None, "dtype": "float32", "attention": "sdpa", "chat_template": None}
    return {"_target_": "dpo.models.pretrained.Pretrained", "trust_remote_code": True} | settings


def test_a_look_at_a_run_runs_no_code_of_its_model(finished, tmp_path, monkeypatch):
    """Every verb that reads its weights, unless this very command says so."""
    from dpo.judge import run_config
    from dpo.reproduce import reproduce
    from dpo.reward import finished_arm
    from dpo.verbs import reward as reward_verb

    run = copy_of(finished, tmp_path)
    plain = yaml.safe_load(run.config.read_text())
    plain["model"] = evil(run, tmp_path / "mark")
    run.config.write_text(yaml.safe_dump(plain))
    pairs = tmp_path / "p.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    against = type(
        "Arguments", (), {"overrides": [], "against": [str(run.path)], "config_dir": None, "config_name": "config"}
    )
    looks = (
        lambda: answer_prompt(run, "a"),
        lambda: score_pairs(run.path, pairs, None, None, []),
        lambda: reproduce(run.path, None),
        lambda: run_config(str(run.path)),
        lambda: finished_arm(run, None),
        lambda: reward_verb(against),
    )
    for look in looks:
        with pytest.raises(UsageError, match="--trust-remote-code"):
            look()
    assert not (tmp_path / "mark").exists()
    token = past.TRUSTED.set(True)
    try:
        assert past.settings(run).model.trust_remote_code
    finally:
        past.TRUSTED.reset(token)


def test_another_start_than_the_runs_own_is_refused(finished, tmp_path):
    """Its adapter would be put on weights that it was not trained on."""
    run = copy_of(finished, tmp_path)
    facts = run.read("provenance")
    run.write("provenance", facts | {"start_hash": "0" * 64})
    with pytest.raises(UsageError, match=r"its start was the weights 0000.*bring the old weights back"):
        answer_prompt(run, "a")
    run.write("provenance", facts)
    assert answer_prompt(run, "a")["dpo"] == answer_prompt(finished, "a")["dpo"]


@pytest.fixture
def sft(tmp_path) -> Path:
    """root/base, and root/sft: an adapter on it that does something, without a tokenizer."""
    kind = toys.tokenizer("chatml")
    base = toys.model("llama", len(kind))
    base.save_pretrained(tmp_path / "root" / "base")
    kind.save_pretrained(tmp_path / "root" / "base")
    save(toys.moved(QV.attach(base, 0)), tmp_path / "root" / "sft", str(tmp_path / "root" / "base"), None)
    return tmp_path / "root" / "sft"


def of(path: Path) -> Pretrained:
    return Pretrained(str(path), None, "float32", "sdpa", False)


def test_a_checkpoint_on_a_merged_start_leads_to_what_was_trained(sft, tmp_path):
    """Through our own loader and through peft's; the merged start is made once and found after a move."""
    from peft import AutoPeftModelForCausalLM

    start = of(sft).folder(tmp_path / "root" / "cache")
    assert start == of(sft).folder(tmp_path / "root" / "cache")
    assert torch.equal(load_model(start)(X).logits, load_model(str(sft))(X).logits)
    policy = toys.moved(QV.attach(load_model(start), 1), seed=2)
    trained = policy(X).logits
    checkpoint = tmp_path / "root" / "runs" / "x" / "checkpoint"
    save(policy, checkpoint, start, None)
    assert torch.equal(AutoPeftModelForCausalLM.from_pretrained(checkpoint).eval()(X).logits, trained)
    assert torch.allclose(load_model(str(checkpoint))(X).logits, trained, atol=1e-4)
    (tmp_path / "root").rename(tmp_path / "moved")
    checkpoint = tmp_path / "moved" / "runs" / "x" / "checkpoint"
    assert torch.allclose(load_model(str(checkpoint))(X).logits, trained, atol=1e-4)
    shutil.rmtree(tmp_path / "moved" / "cache")
    with pytest.raises(UsageError, match=r"belongs on the model in .*merged-"):
        load_model(str(checkpoint))


def test_an_adapter_without_a_tokenizer_speaks_its_bases(sft, capsys):
    """With its chat template, and a note."""
    tokenizer = of(sft).tokenizer(sft.parent)
    own = load_tokenizer(str(sft.parent / "base"))
    assert tokenizer.get_vocab() == own.get_vocab() and tokenizer.chat_template == own.chat_template == toys.CHATML
    assert "no tokenizer of its own" in capsys.readouterr().err


def test_an_adapters_tokenizer_without_a_template_speaks_its_bases(sft, capsys):
    """Some trainers save a tokenizer and leave the template behind."""
    own = load_tokenizer(str(sft.parent / "base"))
    own.chat_template = None
    own.save_pretrained(sft)
    assert of(sft).tokenizer(sft.parent).chat_template == toys.CHATML
    assert "no chat template" in capsys.readouterr().err


def test_an_adapters_base_from_the_hub_keeps_its_revision(sft, tmp_path):
    """Another revision would be another base."""
    model = QV.attach(load_model(str(sft.parent / "base")), 0)
    save(model, tmp_path / "out", "owner/name", "v1")
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"]) == ("owner/name", "v1")
