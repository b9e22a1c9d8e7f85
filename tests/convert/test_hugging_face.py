"""`keepwarm convert --to hf`: every bit of the weights, a folder that is usable alone, and where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from keepwarm import files
from keepwarm.cli.main import main
from keepwarm.corpora.tokenizer import load_tokenizer
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.deletion import delete
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.manifest import read_manifest

BASE = "arms/cookbook/base/00-base/checkpoints"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, real_text, one_stage_text) -> Path:
    """A folder with plan.yaml and its run: a base, a stage, the average of its last checkpoints. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(one_stage_text)
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
        assert main(["run", "plan.yaml", "--branch", "average", "--from", "stage2@peak"]) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(trained) -> Path:
    """The end of the base: a checkpoint at peak inside its run. Not to be changed."""
    return sorted((trained / "run" / BASE).iterdir())[-1]


@pytest.fixture
def copied(trained, tmp_path, monkeypatch) -> Path:
    """The same checkpoint in a copy of the run, to change, in the current folder."""
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "text").symlink_to(trained / "text")
    monkeypatch.chdir(tmp_path)
    return sorted(Path("run", BASE).iterdir())[-1]


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory) -> Path:
    """The checkpoint as a Hugging Face folder in fp32. Not to be changed."""
    out = tmp_path_factory.mktemp("converted") / "hf"
    assert main(["convert", str(checkpoint), str(out), "--to", "hf"]) == 0
    return out


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    manifest = read_manifest(checkpoint)
    model = empty_like(checkpoint, manifest, 0)
    checkpoints.load(checkpoint, manifest, model, None)
    return dict(model.state_dict())


def record_of(out: Path) -> dict:
    return json.loads((out / "keepwarm.json").read_text())


def test_fp32_keeps_every_bit(checkpoint, converted):
    expected, model = weights_of(checkpoint), AutoModelForCausalLM.from_pretrained(converted)
    found = model.state_dict()
    assert found.keys() == expected.keys() and model.dtype == torch.float32
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert weights_sha256(found) == read_manifest(checkpoint).weights_sha256
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_bf16_is_each_number_rounded_and_is_called_so(checkpoint, tmp_path, capsys):
    assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "hf", "--dtype", "bf16"]) == 0
    assert "as a Hugging Face folder, bf16 (rounded from fp32), " in capsys.readouterr().out
    expected, model = weights_of(checkpoint), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert all(torch.equal(found, expected[name].to(torch.bfloat16)) for name, found in model.state_dict().items())
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16} and "lm_head.weight" not in stored
    record = record_of(tmp_path / "out")
    assert record["dtype"] == "bf16" and record["converted_sha256"] == weights_sha256(model.state_dict())
    assert record["weights_sha256"] == read_manifest(checkpoint).weights_sha256 != record["converted_sha256"]


def test_the_record_says_where_it_came_from(checkpoint, converted):
    record, manifest = record_of(converted), read_manifest(checkpoint)
    assert record["checkpoint"] == manifest.id and record["checkpoint"].startswith(BASE)
    assert record["manifest_sha256"] == files.sha256_file(checkpoint / "manifest.json")
    assert record["weights_sha256"] == record["converted_sha256"] == manifest.weights_sha256
    assert (record["lr"], record["phase"], record["line_tokens"]) == (3e-3, "peak", manifest.line_tokens)
    written = {path.name for path in converted.iterdir()} - {"keepwarm.json"}
    assert record["files"].keys() == written
    for name, facts in record["files"].items():
        content = (converted / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert (converted / name).stat().st_mode == (converted / "config.json").stat().st_mode


def test_the_tokenizer_is_the_runs_and_its_document_end_ends_what_is_generated(trained, converted):
    ours, theirs = load_tokenizer(trained / "run/tokens"), AutoTokenizer.from_pretrained(converted)
    texts = [json.loads(line)["text"] for line in (trained / "text/code.jsonl").read_text().splitlines()[:20]]
    assert [theirs(text)["input_ids"] for text in texts] == [ours.encode([text])[0].tolist() for text in texts]
    assert (converted / "tokenizer.json").read_bytes() == ours.path.read_bytes()
    assert (theirs.eos_token, theirs.eos_token_id, len(theirs)) == (ours.eod_token, ours.eod_id, ours.vocab_size)
    assert load_tokenizer(converted).eod_id == ours.eod_id
    model = AutoModelForCausalLM.from_pretrained(converted)
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id) == (ours.eod_id, ours.eod_id)
    config = model.config
    assert (config.vocab_size, config.use_cache, config.architectures) == (ours.vocab_size, True, ["LlamaForCausalLM"])
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits are equal now: the first token, which is the document end, is drawn
    assert model.generate(max_new_tokens=5, do_sample=False).tolist() == [[ours.eod_id, ours.eod_id]]


def test_what_is_printed_loads_it(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(checkpoint), str(out), "--to", "hf"]) == 0
    said, *code = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in out.iterdir() if path.name != "keepwarm.json")
    assert said == f"{out}: {read_manifest(checkpoint).id} as a Hugging Face folder, fp32, {size / 1000:.3g} kB"
    names: dict = {}
    exec("\n".join(line.strip() for line in code), names)
    assert weights_sha256(names["model"].state_dict()) == read_manifest(checkpoint).weights_sha256
    assert names["tokenizer"].eos_token == "<|endoftext|>"


def test_json_is_the_record(checkpoint, tmp_path, capsys):
    assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "hf", "--json"]) == 0
    record = record_of(tmp_path / "out")
    assert record.pop("format") == 1 and json.loads(capsys.readouterr().out) == record


def test_an_average_is_converted(trained, tmp_path):
    (merged,) = (trained / "run/arms/branches/stage2").glob("*/checkpoints/*-merged")
    assert main(["convert", str(merged), str(tmp_path / "out"), "--to", "hf"]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert weights_sha256(model.state_dict()) == read_manifest(merged).weights_sha256
    assert look_at(tmp_path / "out").phase == "merged"


def test_a_converted_folder_is_a_base_whose_rate_and_phase_are_measured(copied, one_stage_text, capsys):
    """No word of the plan is needed for it; one that it contradicts is refused."""
    assert main(["convert", str(copied), "out", "--to", "hf"]) == 0
    manifest, text = read_manifest(copied), one_stage_text.replace("run: {folder: run,", "run: {folder: second,")
    text = text.replace("tokenizer: {train: {vocab_size: 512}}\n", "").replace(
        "new: d1,", "new: d1, allow: [optimizer-state],"
    )
    for said, code in (("", 0), (", phase: cooled", 2), (", lr: 1e-3", 2)):
        Path("again.yaml").write_text(
            text.replace("base: {corpus: d0, tokens: 10_240}", f"base: {{corpus: d0, checkpoint: out{said}}}")
        )
        shutil.rmtree("second", ignore_errors=True)
        assert main(["run", "again.yaml", "--stage", "stage2"]) == code
        if code == 0:
            given = json.loads(Path("second/arms/cookbook/base/00-given/manifest.json").read_text())
            assert (given["lr"], given["lr_is"], given["phase"], given["phase_is"]) == (
                3e-3,
                "measured",
                "peak",
                "measured",
            )
            assert given["step"] == manifest.step and given["optimizer_state"] is False
            for name, old in manifest.evaluation.items():
                assert given["evaluation"][name]["loss"] == pytest.approx(old["loss"], abs=1e-6)
            assert given["tokenizer_sha256"] == manifest.tokenizer_sha256
    error = capsys.readouterr().err
    assert "base.phase: cooled was declared, the checkpoint's own state says peak" in error
    assert "base.lr: 0.001 was declared, the checkpoint's own state says 0.003" in error


def test_weights_that_were_trained_on_are_not_taken_for_those_on_record(converted, tmp_path, capsys):
    out = shutil.copytree(converted, tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(out).save_pretrained(out)
    assert look_at(out).phase == "peak"  # the same weights, saved again
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(out)
    assert main(["lineage", str(out)]) == 2
    assert "model.safetensors: has other weights than keepwarm.json" in capsys.readouterr().err
    (out / "keepwarm.json").write_text("{}")
    assert main(["lineage", str(out)]) == 2
    assert "keepwarm.json: can't be read ('format')" in capsys.readouterr().err
    (out / "keepwarm.json").unlink()
    assert look_at(out).lr is None


def deleted(folder: Path) -> Path:
    delete(folder, read_manifest(folder).files, "no rung of the plan goes back to it")
    return folder


def damaged(folder: Path) -> Path:
    shard = next((folder / "state").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return folder


def moved(folder: Path) -> Path:
    return folder.rename("elsewhere")


def with_another_tokenizer(folder: Path) -> Path:
    path = Path("run/tokens/tokenizer.json")
    path.write_text(path.read_text() + " ")
    return folder


def hugging_face(folder: Path) -> Path:
    assert main(["convert", str(folder), "first", "--to", "hf"]) == 0
    return Path("first")


def recorded(folder: Path) -> Path:
    """The record of a base that was given: its manifest alone."""
    content = json.loads((folder / "manifest.json").read_text())
    files.write_json(Path("run/arms/cookbook/base/00-given/manifest.json"), content | {"id": "/models/base"})
    return Path("run/arms/cookbook/base/00-given")


REFUSED = {
    deleted: "its tensors were deleted on .*no rung of the plan goes back to it",
    damaged: ".distcp: has other content than when it was saved",
    moved: "elsewhere: the tokenizer of its run, RUN/tokens/tokenizer.json, is not to be found from here",
    with_another_tokenizer: "tokenizer.json: is [0-9a-f]{12}, the checkpoint was trained with [0-9a-f]{12}",
    hugging_face: "first: is a Hugging Face folder already",
    recorded: "00-given: is the record of a checkpoint, whose weights lie in /models/base",
    (lambda _: Path("run")): "run: is a run's folder",
    (lambda _: Path("text")): "text: neither a keepwarm checkpoint",
    (lambda _: Path("nowhere")): "nowhere: there is no such folder",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_what_is_no_whole_checkpoint_of_a_run_is_refused(change, message, copied, capsys):
    named = change(copied)
    capsys.readouterr()
    assert main(["convert", str(named), "new/out", "--to", "hf"]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert re.search(message, what), what
    assert why.startswith("  why: ") and fix.startswith("  fix: ")
    assert not Path("new").exists()


def test_a_folder_that_exists_is_left_as_it_is(copied, capsys):
    Path("out").mkdir()
    assert main(["convert", str(copied), "out", "--to", "hf"]) == 2
    assert "out: exists already" in capsys.readouterr().err and not list(Path("out").iterdir())


def test_another_target_is_refused(copied, capsys):
    assert main(["convert", str(copied), "out", "--to", "gguf"]) == 2
    assert 'Invalid value "gguf" for --to' in capsys.readouterr().err


def test_a_disk_that_refuses_leaves_nothing(copied):
    """The limit is above what the small files need and below the weights."""
    command = [sys.executable, "-m", "keepwarm.cli.main", "convert", str(copied), "out", "--to", "hf"]
    limit = (60_000, 60_000)
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )  # fmt: skip
    assert done.returncode == 2 and "out: can't be written (" in done.stderr and "File too large" in done.stderr
    assert not list(Path().glob("out*"))
