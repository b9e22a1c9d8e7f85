"""ZeRO checkpoints through DeepSpeed's own converter, with its faults put right; and the copy that a restart begins from."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from keepwarm.cli.main import main
from keepwarm.convert import deepspeed, pickles
from keepwarm.lineage.foreign import look_at

pytest.importorskip("deepspeed", reason="pip install 'keepwarm[deepspeed]': ZeRO checkpoints go through its converter")
UNIVERSAL, STATES = "global_step10_universal", "mp_rank_00_model_states.pt"
RECORDED = Path(__file__).parents[1] / "golden/checkpoint"
KINDS = ("fp32", "exp_avg", "exp_avg_sq")


def converted(source: Path, out: Path, *more: str) -> Path:
    assert main(["convert", str(source), str(out), "--to", "universal", "--trust", *more]) == 0
    return out


def test_a_recorded_step_becomes_the_recorded_copy(saved, tmp_path, differences):
    out = converted(saved / "global_step10", tmp_path / "load" / UNIVERSAL)
    assert not differences(saved / UNIVERSAL, out)
    assert (tmp_path / "load/latest_universal").read_bytes() == (saved / "latest_universal").read_bytes()
    assert {path.name for path in out.iterdir()} == {STATES, "zero", "keepwarm.json"}
    record = json.loads((out / "keepwarm.json").read_text())
    assert (record["written"], record["moments"]) == ("universal", "kept")
    assert record["notes"] == [
        "its 3 pickled files were checked before DeepSpeed read them: they name nothing that is not on the list"
    ]
    assert record["files"].keys() == {str(path.relative_to(out)) for path in out.rglob("*.pt")}


def test_the_copy_of_a_restart_is_zero_where_it_must_be_and_the_same_elsewhere(saved, tmp_path, differences, capsys):
    """Made of the folder that the trainer saved into, as a job script does it; the universal copy gives the same."""
    out = converted(saved, tmp_path / "step" / UNIVERSAL, "--moments", "reset")
    assert "the optimizer's moments, steps and learning rates 0" in capsys.readouterr().out
    names = {path.parent.name for path in (saved / UNIVERSAL / "zero").rglob("fp32.pt")}
    expected = {f"zero/{name}/{kind}.pt/param" for name in names for kind in KINDS[1:]}
    expected |= {f"zero/{name}/step.pt" for name in names}
    expected |= {f"zero/optimizer_state.pt/param_groups/{group}/lr" for group in (0, 1)}
    assert differences(saved / UNIVERSAL, out) == expected
    for name in names:
        folder = out / "zero" / name
        assert not pickles.load(folder / "step.pt").item()
        assert not any(pickles.load(folder / f"{kind}.pt")["param"].count_nonzero() for kind in KINDS[1:])
    assert [group["lr"] for group in pickles.load(out / "zero/optimizer_state.pt")["param_groups"]] == [0.0, 0.0]
    found = look_at(out)
    assert (found.moments, found.unknown[-1]) == (False, "the optimizer's moments are zeros: it begins anew")
    assert (found.lr, found.phase) == (pytest.approx(1.1736481776669306e-4), "decaying")  # of the weights
    again = converted(saved / UNIVERSAL, tmp_path / "copy" / UNIVERSAL, "--moments", "reset")
    assert not differences(out, again)


def test_a_step_in_the_groups_is_zero_too(saved, tmp_path):
    """FusedAdam counts there."""
    shutil.copytree(saved / UNIVERSAL, tmp_path / UNIVERSAL)
    path = tmp_path / UNIVERSAL / "zero/optimizer_state.pt"
    state = pickles.load(path)
    for group in state["param_groups"]:
        group["step"] = 10
    pickles.save(state, tmp_path / "new.pt")
    (tmp_path / "new.pt").rename(path)
    out = converted(tmp_path / UNIVERSAL, tmp_path / "load" / UNIVERSAL, "--moments", "reset")
    groups = pickles.load(out / "zero/optimizer_state.pt")["param_groups"]
    assert [(group["step"], group["betas"]) for group in groups] == [(0, (0.9, 0.95))] * 2


def test_padding_on_more_than_one_rank_converts_where_deepspeeds_own_script_fails(two_ranks, tmp_path, capsys):
    """Two real ranks, a group of one element: the engine itself said what it held."""
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(two_ranks / "global_step3"),
        "--output_folder", str(tmp_path / "own"), "--inject_missing_state", "--num_extract_workers", "1",
        "--num_merge_workers", "1",
    ]  # fmt: skip
    own = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"DS_ACCELERATOR": "cpu"})
    assert own.returncode == 1 and "narrow(): length must be non-negative" in own.stderr
    out = converted(two_ranks / "global_step3", tmp_path / "load/global_step3_universal")
    assert deepspeed.INJECTED in capsys.readouterr().out
    for name, held in json.loads((two_ranks / "held.json").read_text()).items():
        for kind, expected in zip(KINDS, held, strict=True):
            assert pickles.load(out / "zero" / name / f"{kind}.pt")["param"].tolist() == expected
        assert pickles.load(out / "zero" / name / "step.pt").item() == 3


def sharded(folder: Path, ranks: int, numel: int, partition: int, padding: int) -> torch.Tensor:
    """A ZeRO-1 step of one vector whose parts and padding are as the trainer makes them; the vector."""
    vector = torch.arange(1, numel + 1, dtype=torch.float32)
    flat = torch.nn.functional.pad(vector, (0, padding)).view(ranks, partition)
    address = pickles.stand_in("deepspeed.utils.tensor_fragment", "fragment_address")
    for rank, part in enumerate(flat):
        held = min(partition, max(0, numel - rank * partition))
        there = address()
        there.__setstate__({"numel": held, "start": 0})
        pickles.save({"optimizer_state_dict": {
            "base_optimizer_state": {
                "state": {0: {"step": torch.tensor(7.0), "exp_avg": part.clone(), "exp_avg_sq": part.clone()}},
                "param_groups": [{"lr": 1e-4, "params": [0]}],
            },
            "single_partition_of_fp32_groups": [part.clone()], "zero_stage": 1, "ds_version": "0.17.5",
            "group_paddings": [padding if rank == ranks - 1 else 0], "partition_count": [ranks],
            "param_slice_mappings": [OrderedDict({"norms.weight": there} if held else {})],
        }}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")  # fmt: skip
    pickles.save({
        "module": {"norms": OrderedDict(weight=vector)}, "param_shapes": [OrderedDict({"norms.weight": torch.Size([numel])})],
        "dp_world_size": ranks, "mp_world_size": 1, "iteration": 7, "ds_version": "0.17.5", "buffer_names": [],
        "universal_checkpoint_info": {"universal_checkpoint_version": 0.2},
    }, folder / STATES)  # fmt: skip
    return vector


CASES = json.loads((RECORDED / "padding_bug.json").read_text())["cases"]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case["dp"] == 48 else [pytest.mark.slow]) for case in CASES],
    ids=lambda case: f"{case['partition']}-{case['padding']}",
)
def test_every_recorded_case_of_padding_converts(case, tmp_path):
    """Also those of 768, 1536 and 3072 ranks, whose padding is longer than a part (348 elements, 1,024 of padding)."""
    words = case["numel"], case["partition"], case["padding"]
    vector = sharded(tmp_path / "global_step7", case["dp"], *words)
    out = converted(tmp_path / "global_step7", tmp_path / "global_step7_universal")
    assert all(torch.equal(pickles.load(out / f"zero/norms.weight/{kind}.pt")["param"], vector) for kind in KINDS)


def test_a_partition_that_names_a_program_is_refused_before_the_converter_runs(saved, tmp_path, capsys):
    shutil.copytree(saved / "global_step10", tmp_path / "global_step10")

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/mark",)

    path = tmp_path / "global_step10/zero_pp_rank_1_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {}, "more": Runs()}, path)
    assert (
        main(["convert", str(tmp_path / "global_step10"), str(tmp_path / "out"), "--to", "universal", "--trust"]) == 2
    )
    assert f"{path}: names posix.system, which no checkpoint needs" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["global_step10"]


def test_without_deepspeed_it_says_what_to_install(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["convert", str(saved / "global_step10"), str(tmp_path / "out"), "--to", "hf", "--trust"]) == 2
    said = capsys.readouterr().err
    assert "DeepSpeed is not installed" in said and "pip install 'keepwarm[deepspeed]'" in said
    assert not list(tmp_path.iterdir())


def test_a_step_split_over_tensor_parallel_ranks_needs_its_info(two_ranks, tmp_path, capsys):
    shutil.copytree(two_ranks / "global_step3", tmp_path / "global_step3")
    for path in list((tmp_path / "global_step3").glob("*.pt")):
        shutil.copy(path, path.with_name(path.name.replace("mp_rank_00", "mp_rank_01")))
    assert main(["convert", str(tmp_path / "global_step3"), str(tmp_path / "out"), "--to", "universal", "--trust"]) == 2
    assert "is split over tensor-parallel ranks, and has no universal_checkpoint_info" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_and_no_process(tmp_path):
    sharded(tmp_path / "global_step7", 400, 4000, 10, 0)
    command = [
        sys.executable,
        "-m",
        "keepwarm.cli.main",
        "convert",
        "global_step7",
        "out",
        "--to",
        "universal",
        "--trust",
    ]
    begun = [tmp_path / "out.partial/.universal/copy" / name for name in ("tmp", "zero")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not any(path.exists() for path in begun):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130 and "stopped" in process.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["global_step7"]
    with contextlib.suppress(FileNotFoundError):
        assert Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z"


@pytest.mark.slow
def test_deepspeed_itself_loads_what_is_written(saved, tmp_path):
    """A universal copy of a keepwarm checkpoint in a real engine: weights, moments, step, rates."""
    assert main(["convert", str(saved / UNIVERSAL), str(tmp_path / "dcp"), "--to", "dcp", "--trust"]) == 0
    assert main(["convert", str(saved / UNIVERSAL), str(tmp_path / "hf"), "--to", "hf", "--trust"]) == 0
    for made, step, rate in (("dcp", 10, 1.1736481776669306e-4), ("hf", 0, 1e-2)):  # 1e-2: the engine's own
        out = converted(tmp_path / made, tmp_path / f"load-{made}" / UNIVERSAL)
        held = _loaded(tmp_path / f"load-{made}", tmp_path / f"{made}.pt")
        for name, value in held["weights"].items():
            assert torch.equal(value, pickles.load(saved / UNIVERSAL / "zero" / name / "fp32.pt")["param"])
        assert held["step"] == [step, step] and held["iteration"] == 10
        assert [group["lr"] for group in held["groups"]] == [rate, rate]
        shapes = pickles.load(out / STATES)["param_shapes"]
        for names, moments in zip(shapes, held["moments"], strict=True):
            for kind, found in zip(KINDS[1:], moments, strict=True):
                expected = [pickles.load(out / "zero" / name / f"{kind}.pt")["param"].flatten() for name in names]
                assert torch.equal(found[: sum(map(len, expected))].float(), torch.cat(expected))


@pytest.mark.slow
def test_two_ranks_train_and_their_step_converts(tmp_path):
    _trainer(2, "train", str(tmp_path / "saved"))
    expected = json.loads((tmp_path / "saved/held.json").read_text())
    out = converted(tmp_path / "saved", tmp_path / "load/global_step3_universal")
    for name, held in expected.items():
        assert [pickles.load(out / "zero" / name / f"{kind}.pt")["param"].tolist() for kind in KINDS] == held


def _loaded(folder: Path, out: Path) -> dict:
    _trainer(1, "load", str(folder), str(out))
    return torch.load(out)


def _trainer(ranks: int, *words: str) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
        str(Path(__file__).with_name("zero_trainer.py")), *words,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"DS_ACCELERATOR": "cpu"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
