"""Bases that were trained elsewhere: Hugging Face folders and keepwarm checkpoints."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from keepwarm.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def hugging_face(publish_llama):
    """A tiny Llama with its tokenizer, as people publish them."""
    return publish_llama(512)


MODEL = "model: {config: {type: llama, hidden_size: 32, layers: 1, heads: 2, kv_heads: 2}}\n"
TOKENIZER = "tokenizer: {train: {vocab_size: 512}}\n"
BASE = "base: {corpus: d0, tokens: 10_240}"


def test_a_hugging_face_model_is_trained_on_as_the_base(hugging_face, workplace, edit_plan, manifest_of):
    edit_plan((MODEL, "model: {hf: hf}\n"), (TOKENIZER, ""))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    base = manifest_of(workplace / "run", "cookbook/base/00-base")
    assert (base["phase"], base["optimizer_state"], base["vocab_size"]) == ("peak", True, 500)
    first = json.loads((workplace / "run/arms/cookbook/base/00-base/metrics.jsonl").read_text().splitlines()[1])
    assert first["kind"] == "eval" and first["step"] == 0


def test_a_given_hugging_face_base_must_declare_its_phase(hugging_face, workplace, edit_plan, capsys):
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf}"))
    assert main(["run", "plan.yaml"]) == 2
    assert "does not say at which learning rate it ended, nor in which phase" in capsys.readouterr().err


def test_a_cooled_given_base_is_refused_at_peak(hugging_face, workplace, edit_plan, capsys):
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-5, phase: cooled}"))
    assert main(["run", "plan.yaml"]) == 2
    assert "is cooled (declared) at LR 3e-05 (declared) (1% of LR_max 0.003)" in capsys.readouterr().err


def test_a_given_base_without_moments_needs_its_guard_overridden_and_the_record_keeps_it(
    hugging_face, workplace, edit_plan, capsys, manifest_of
):
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf, lr: 3e-3, phase: peak}"))
    assert main(["run", "plan.yaml"]) == 2
    assert "has no optimizer state" in capsys.readouterr().err
    edit_plan(("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, allow: [optimizer-state],"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    attempt = json.loads((workplace / "run/arms/cookbook/stage2/00-replay/attempt.json").read_text())
    assert attempt["moments"] == "reset"
    end = manifest_of(workplace / "run", "cookbook/stage2/00-replay")
    assert end["allowed"] == ["optimizer-state"] and end["optimizer_state"] is True
    given = json.loads((workplace / "run/arms/cookbook/base/00-given/manifest.json").read_text())
    assert (given["phase"], given["phase_is"], end["parent"]) == ("peak", "declared", given["id"])


def test_a_line_goes_on_from_another_runs_checkpoint(workplace, edit_plan, manifest_of, capsys):
    """Bitwise: the base of one run, given to another, makes the same stage."""
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    base = manifest_of(workplace / "run", "cookbook/base/00-base")
    edit_plan(
        (BASE, f"base: {{corpus: d0, checkpoint: run/{base['id']}}}"), ("run: {folder: run,", "run: {folder: second,"),
        (TOKENIZER, "tokenizer: {file: run/tokens/tokenizer.json}\n"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    first, second = (manifest_of(workplace / run, "cookbook/stage2/00-replay") for run in ("run", "second"))
    assert second["weights_sha256"] == first["weights_sha256"]
    assert second["line_tokens"] == first["line_tokens"] and second["cursors"] == first["cursors"]
    shutil.rmtree(workplace / "second")
    edit_plan(("layers: 1", "layers: 2"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 2
    assert "another architecture than the plan's model.config" in capsys.readouterr().err


def test_another_tokenizer_than_the_given_bases_is_refused(workplace, edit_plan, manifest_of, capsys):
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    base = manifest_of(workplace / "run", "cookbook/base/00-base")
    edit_plan(
        (BASE, f"base: {{corpus: d0, checkpoint: run/{base['id']}}}"), ("run: {folder: run,", "run: {folder: second,"),
        ("vocab_size: 512", "vocab_size: 512, corpora: [d0, d1]"),
    )  # fmt: skip
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 2
    assert "has tokenizer" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(workplace, edit_plan, capsys):
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    last = sorted((workplace / "run/arms/cookbook/base/00-base/checkpoints").iterdir())[-1]
    shard = next(Path(last / "state").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-10])
    shutil.rmtree(workplace / "run/arms/cookbook/stage2")
    capsys.readouterr()
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 2
    assert ".distcp: has" in capsys.readouterr().err


def of_a_trainer(folder: Path, lr: float, rates: tuple[float, ...]) -> None:
    """Leave in a model's folder what a Trainer leaves there at step 10 of 20."""
    history = [{"step": number, "learning_rate": rate} for number, rate in enumerate(rates)]
    state = {"global_step": 10, "max_steps": 20, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    torch.save({"base_lrs": [3e-3], "_last_lr": [lr]}, folder / "scheduler.pt")


def test_a_trainers_checkpoint_says_its_rate_and_phase_itself(hugging_face, workplace, edit_plan, capsys):
    of_a_trainer(hugging_face, 3e-3, (1e-3, 3e-3))
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf}"))
    edit_plan(("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, allow: [optimizer-state],"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    given = json.loads((workplace / "run/arms/cookbook/base/00-given/manifest.json").read_text())
    assert (given["lr"], given["phase"], given["lr_is"], given["phase_is"]) == (3e-3, "peak", "measured", "measured")
    assert (given["weights"], given["step"], given["optimizer_state"]) == ("hugging-face", 10, False)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("lr: 1e-3", "base.lr: 0.001 was declared, the checkpoint's own state says 0.0002"),
        ("phase: peak", "base.phase: peak was declared, the checkpoint's own state says decaying"),
    ],
)
def test_a_declaration_that_the_state_contradicts_is_refused(said, message, hugging_face, edit_plan, capsys):
    of_a_trainer(hugging_face, 2e-4, (3e-3, 1e-3))
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, f"base: {{corpus: d0, checkpoint: hf, {said}}}"))
    assert main(["run", "plan.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_what_the_state_leaves_open_is_asked_for_alone(hugging_face, edit_plan, capsys):
    of_a_trainer(hugging_face, 3e-3, ())
    edit_plan((MODEL, ""), (TOKENIZER, ""), (BASE, "base: {corpus: d0, checkpoint: hf}"))
    assert main(["run", "plan.yaml"]) == 2
    error = capsys.readouterr().err
    assert "does not say in which phase it ended" in error and "lr: 0.003, phase: cooled" in error


def test_a_megatron_checkpoint_is_refused_with_what_was_found(workplace, edit_plan, capsys):
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as archive:
        archive.extractall(workplace / "ckB", filter="data")
    edit_plan((BASE, "base: {corpus: d0, checkpoint: ckB/global_step10}"))
    assert main(["run", "plan.yaml"]) == 2
    error = capsys.readouterr().err
    assert "is a megatron-deepspeed checkpoint of iteration 10, LR 0.000117365, phase decaying" in error
    assert "keepwarm convert" in error


def test_an_adopted_hugging_face_checkpoint_is_a_base_with_its_position(hugging_face, workplace, edit_plan, capsys):
    """Its weights are loaded from where they lie; cursors, LR and phase are its manifest's."""
    for name in ("s0.bin", "s0.idx", "s1.bin", "s1.idx", "list.txt"):
        shutil.copy(GOLDEN / "runs/data" / name, workplace)
    (workplace / "line.yaml").write_text(
        "name: line\nsequence_length: 32\nstages:\n  - {name: stage1, new: d0, list: list.txt, lr: 3e-3, phase: peak,\n"
        "     checkpoints: [{folder: hf, samples: 100}]}\n"
    )
    assert main(["adopt", "line.yaml", "--run", "adopted"]) == 0
    (folder,) = (workplace / "adopted").glob("arms/*/*/*/checkpoints/*")
    tokenizer = "tokenizer: {file: hf/tokenizer.json}\n"
    edit_plan((MODEL, ""), (TOKENIZER, tokenizer), (BASE, f"base: {{corpus: d0, checkpoint: {folder}}}"))
    edit_plan(("new: d1, tokens: 5_120,", "new: d1, tokens: 5_120, allow: [optimizer-state],"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    given = json.loads((workplace / "run/arms/cookbook/base/00-given/manifest.json").read_text())
    assert given["id"] == str(workplace / "hf") and given["line_tokens"] == 3200
    assert (given["lr"], given["lr_is"], given["phase"], given["phase_is"]) == (3e-3, "declared", "peak", "declared")
    assert sorted(given["cursors"].values()) == [30, 70]
