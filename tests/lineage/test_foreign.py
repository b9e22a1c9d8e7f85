"""Foreign checkpoints: a real Megatron-DeepSpeed one, Hugging Face folders, and files that try to run something."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from keepwarm.cli.main import main
from keepwarm.errors import DataError, LineageError
from keepwarm.lineage.foreign import look_at, look_at_all
from keepwarm.lineage.foreign_logs import read_logs
from keepwarm.lineage.pickled import Inert, Tensor, attributes, read_pickled

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def real(tmp_path) -> Path:
    """The recorded run's folder: step 10, its universal copy and what names them (`latest` was of a step not kept)."""
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as archive:
        archive.extractall(tmp_path / "ckB", filter="data")
    (tmp_path / "ckB/latest").write_text("global_step10")
    return tmp_path / "ckB"


def write_pt(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetsState:
    """Pickled as an object whose state is given to `__setstate__`."""

    def __reduce__(self):
        return (Calls, (print,), {"call": (os.system, ("touch ran",))})


HOSTILE = {
    "reduce": Calls(os.system, "touch ran"),
    "nested": {"lr": [Calls(eval, "open('ran', 'w').close()")]},
    "build": SetsState(),
    "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_that_a_file_says_is_run(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_pickled(write_pt(tmp_path / "hostile.pt", pickle.dumps(HOSTILE[name], protocol)))
    assert not (tmp_path / "ran").exists()
    assert isinstance(found["lr"][0] if name == "nested" else found, Inert)


def test_what_raises_while_it_is_read_is_refused_in_words(tmp_path):
    path = write_pt(tmp_path / "damaged.pt", b"\x80\x02cbuiltins\nlist\nK\x01\x85R.")  # list(1)
    with pytest.raises(LineageError, match=r"damaged.pt: its data.pkl is damaged \(TypeError"):
        read_pickled(path)


def test_a_large_file_is_not_read_whole(tmp_path):
    path = tmp_path / "large.pt"
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"lr": 2e-4}, 2))
        archive.writestr("archive/data/0", b"")
    whole = path.read_bytes()
    with open(path, "wb") as file:  # 4 GiB of nothing before the zip: offsets in it are from its own start
        file.truncate(1 << 32)
        file.seek(1 << 32)
        file.write(whole)
    assert read_pickled(path) == {"lr": 2e-4}


def test_a_truncated_file_one_of_the_old_format_and_a_foreign_one_are_refused(real, tmp_path):
    states = real / "global_step10/mp_rank_00_model_states.pt"
    states.write_bytes(states.read_bytes()[:-1000])
    with pytest.raises(LineageError, match="is cut short: a torch file is a zip"):
        read_pickled(states)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))
    with pytest.raises(LineageError, match="the format torch wrote before 1.6"):
        read_pickled(tmp_path / "old.pt")
    (tmp_path / "text.pt").write_bytes(b"hello")
    with pytest.raises(LineageError, match="is not a torch file"):
        read_pickled(tmp_path / "text.pt")
    with pytest.raises(LineageError, match="no such file"):
        read_pickled(tmp_path / "none.pt")


def test_tensors_are_shapes_and_arguments_attributes(real):
    state = read_pickled(real / "global_step10/mp_rank_00_model_states.pt")
    assert attributes(state["args"])["seed"] == 1234
    layer = state["module"]["language_model"]["encoder"]["layers.0.self_attention.query_key_value.weight"]
    assert layer == Tensor((64, 32), "float32")


@pytest.mark.parametrize("name", ["global_step10", "global_step10_universal"])
def test_a_real_checkpoint_says_rate_position_phase_and_shape(real, name):
    found = look_at(real / name)
    assert found.kind == ("universal" if name.endswith("universal") else "megatron-deepspeed")
    assert (found.iteration, found.samples, found.tokens, found.sequence_length) == (10, 80, 1280, 16)
    assert (found.lr, found.lr_max, found.phase) == (0.00011736481776669306, 0.0002, "decaying")
    assert (found.lr_from, found.phase_from) == ("the optimizer's state", "the scheduler's state")
    assert found.moments and found.unknown == ()
    assert found.architecture == {
        "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_hidden_size": 96, "vocab_size": 128,
        "padded_vocab_size": 128, "rope_theta": 50000,
    }  # fmt: skip
    assert found.launch.samples == 160 and found.launch.seed == 1234 and found.launch.shuffled


def test_the_folder_of_a_run_is_followed_to_its_latest_step(real):
    assert look_at(real).folder == real / "global_step10"
    (real / "latest").unlink()
    assert look_at(real).folder == real / "global_step10_universal"
    assert [found.kind for found in look_at_all(real)] == ["universal"]


def test_a_run_without_latest_or_with_one_that_points_nowhere_is_refused(real):
    (real / "latest").write_text("global_step20")
    with pytest.raises(LineageError, match="latest: names 'global_step20', and there is no such step"):
        look_at(real)
    assert "names global_step20, which is not there" in look_at(real / "global_step10").unknown[0]
    (real / "latest").unlink()
    (real / "latest_universal").unlink()
    with pytest.raises(LineageError, match="no file `latest`") as refused:
        look_at(real)
    assert "random weights" in refused.value.why
    shutil.rmtree(real / "global_step10")
    with pytest.raises(LineageError, match="no file `latest_universal`"):
        look_at(real)
    assert look_at(real / "global_step10_universal").unknown == (
        f"{real} has no file `latest_universal`: DeepSpeed refuses to load from there",
    )


def test_half_written_folders_are_refused(real):
    step, copy = real / "global_step10", real / "global_step10_universal"
    (step / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(LineageError, match="1 of 2 partitions of the optimizer are there"):
        look_at(step)
    lost = copy / "zero/language_model.output_layer.weight"
    (lost / "exp_avg.pt").unlink()
    with pytest.raises(LineageError, match="the moments of language_model.output_layer.weight are missing"):
        look_at(copy)
    shutil.rmtree(lost)
    with pytest.raises(LineageError, match="1 of 15 parameters are missing"):
        look_at(copy)
    (step / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(LineageError, match="there is no mp_rank_00_model_states.pt"):
        look_at(step)


def test_a_step_without_any_optimizer_file_has_its_rate_from_the_schedule(real):
    step = real / "global_step10"
    for path in step.glob("zero_pp_*"):
        path.unlink()
    found = look_at(step)
    assert (found.moments, found.lr_from, found.phase) == (False, "the scheduler's state", "decaying")
    assert found.lr == pytest.approx(0.00011736481776669306, rel=1e-12)
    assert found.unknown == ("the optimizer's moments are not there",)


def test_several_tensor_parallel_ranks_are_told(real):
    step = real / "global_step10"
    shutil.copy(step / "mp_rank_00_model_states.pt", step / "mp_rank_01_model_states.pt")
    assert look_at(step).unknown[0].startswith("the tensors are split over 2 tensor-parallel ranks")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(LineageError, match="neither a keepwarm checkpoint"):
        look_at(tmp_path)
    with pytest.raises(LineageError, match="there is no such folder"):
        look_at(tmp_path / "none")


@pytest.fixture
def hugging_face(tmp_path):
    """A folder as a Trainer leaves it; keywords replace its log, its rate, or its schedule's name."""

    def make(rates=(), lr=1e-3, step=10, steps=20, kind=None) -> Path:
        import torch

        folder = tmp_path / "checkpoint-10"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"hidden_size": 32, "vocab_size": 128}))
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
        if lr is not None:
            history = [{"step": number, "learning_rate": rate} for number, rate in enumerate(rates)]
            state = {"global_step": step, "max_steps": steps, "log_history": history}
            (folder / "trainer_state.json").write_text(json.dumps(state))
            torch.save({"base_lrs": [1e-3], "_last_lr": [lr]}, folder / "scheduler.pt")
            torch.save({"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}, folder / "optimizer.pt")
        if kind is not None:
            torch.save({"lr_scheduler_type": kind}, folder / "training_args.bin")
        return folder

    return make


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ({"rates": (5e-4, 1e-3, 1e-3)}, "peak"),
        ({"kind": "constant_with_warmup"}, "peak"),
        ({}, "unknown"),  # at its largest, but nothing says that it stayed there
        ({"rates": (1e-3, 1e-4, 1e-3)}, "unknown"),  # a restart of a cosine
        ({"rates": (1e-3, 5e-4), "lr": 2e-4}, "decaying"),
        ({"rates": (1e-3, 5e-4), "lr": 0.0, "step": 20}, "cooled"),
        ({"rates": (2e-4, 5e-4), "lr": 6e-4}, "warming"),
        ({"lr": 0.0, "step": 20}, "unknown"),
    ],
)
def test_a_trainers_phase_is_known_only_beyond_doubt(hugging_face, state, phase):
    found = look_at(hugging_face(**state))
    assert (found.phase, found.lr, found.lr_max) == (phase, state.get("lr", 1e-3), 1e-3)
    assert found.moments and found.architecture == {"hidden_size": 32, "vocab_size": 128}
    assert bool(found.unknown) == (phase == "unknown")


def test_a_published_model_says_nothing_of_its_rate(hugging_face):
    found = look_at(hugging_face(lr=None))
    assert (found.lr, found.phase, found.moments) == (None, "unknown", False)
    assert found.unknown[0] == "the LR at which it ended: the folder keeps no state of its training"


def test_weights_that_are_missing_or_cut_short_are_refused(hugging_face):
    folder = hugging_face()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LineageError, match=r"half-written \(model.safetensors is cut short\)"):
        look_at(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(LineageError, match="1 of the 1 files that model.safetensors.index.json names are missing"):
        look_at(folder)
    index.unlink()
    path.unlink()
    with pytest.raises(LineageError, match="has a config.json and no weights"):
        look_at(folder)


def test_training_lines_of_every_style_are_read_and_no_others():
    log = read_logs([GOLDEN / "logs/samples.txt"])
    by_iteration = {line.iteration: line for line in log.lines}
    new, old, middle = by_iteration[136004], by_iteration[199], log.at(1)[0]
    assert (new.samples, new.lr, new.global_batch_size, new.iterations) == (835608576, 2.0127e-05, 6144, 136100)
    assert (old.samples, old.lr, old.lr_digits) == (152832, 2.407e-4, 4)
    assert (middle.samples, middle.lr) == (768, 1.88743e-08)
    assert 327281 not in by_iteration and len(log.lines) == 19
    assert old.has_rate(2.40653e-4) and not new.has_rate(2.0128e-5)


def test_a_log_that_goes_back_is_one_history_with_a_restart(tmp_path):
    lines = [line for line in (GOLDEN / "logs/baseB.log").read_text().splitlines() if "iteration=" in line]
    (tmp_path / "1.log").write_text("\n".join(lines[:12]))
    (tmp_path / "2.log").write_text("\n".join(lines[10:]))
    log = read_logs([tmp_path / "1.log", tmp_path / "2.log"])
    assert (log.restarts, len(log.at(11)), len(log.lines)) == (1, 2, 22)
    assert read_logs([GOLDEN / "logs/baseB.log"]).from_random == (f"{GOLDEN / 'logs/baseB.log'}:36",)


def test_a_file_without_training_lines_is_refused(tmp_path):
    (tmp_path / "x.log").write_text("iteration: 3 / 5 | lr: 1e-5\n")
    with pytest.raises(DataError, match="no training line of Megatron-DeepSpeed"):
        read_logs([tmp_path / "x.log"])
    with pytest.raises(DataError, match="no such file"):
        read_logs([tmp_path / "none.log"])


def test_a_checkpoint_can_be_looked_at_from_the_command_line(real, capsys):
    assert main(["lineage", str(real)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "LR 0.000117365 from the optimizer's state" in lines
    assert "phase decaying from the scheduler's state" in lines and "optimizer moments there" in lines
    assert main(["lineage", str(real / "global_step10_universal"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["iteration"], found["lr_max"], found["phase"]) == ("universal", 10, 2e-4, "decaying")


def test_a_half_written_checkpoint_is_refused_from_the_command_line(real, capsys):
    next((real / "global_step10").glob("zero_pp_rank_1*")).unlink()
    assert main(["lineage", str(real / "global_step10")]) == 2
    assert "is half-written" in capsys.readouterr().err


def test_a_resume_is_shown_from_the_checkpoint_itself(real, capsys):
    flags = "--lr 2e-4 --lr-warmup-fraction 0.1 --lr-decay-style cosine --train-iters 20 --global-batch-size 8 --seq-length 16"
    assert main(["lr", "--megatron", flags, "--state", str(real), "--csv", "--steps", "10:11"]) == 0
    step, lr, phase = capsys.readouterr().out.splitlines()[1].split(",")
    assert (step, phase) == ("10", "decaying") and float(lr) == pytest.approx(0.00011736481776669306, rel=1e-12)
