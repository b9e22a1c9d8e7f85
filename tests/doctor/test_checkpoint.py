"""Checkpoints, on the real one of a small run."""

from __future__ import annotations

import json
import tarfile

import pytest

from doctor.told import GOLDEN, names, only
from keepwarm.doctor.checkpoint import Saved, Step, partition_of
from keepwarm.doctor.trap import traps_in
from keepwarm.lineage.pickled import Tensor

PADDING = json.loads((GOLDEN / "checkpoint/padding_bug.json").read_text())["cases"]


@pytest.fixture
def saved(tmp_path):
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_whole_step_has_none(saved, doctor):
    assert doctor(saved / "global_step10", saved / "global_step10_universal") == []
    (saved / "latest").write_text("global_step10")
    assert doctor(saved) == []


def test_a_pointer_to_nothing(saved, doctor):
    trap = only(doctor(saved), "dangling-pointer")  # `latest` of the recording names a step that was not kept
    assert (trap["where"], trap["evidence"]) == (f"{saved / 'latest'}", "names global_step20, which is not there")
    assert trap["fix"] == f"printf global_step10 > {saved / 'latest'}"


def test_no_pointer(saved, doctor):
    (saved / "latest").unlink()
    (saved / "latest_universal").unlink()
    found = doctor(saved)
    assert [(trap["name"], trap["evidence"]) for trap in found] == [
        ("no-pointer", "no file `latest`, steps up to global_step10"),
        ("no-pointer", "no file `latest_universal`, steps up to global_step10_universal"),
    ]


def test_pointers_that_differ(saved, doctor):
    (saved / "global_step10").rename(saved / "global_step20")
    found = doctor(saved)
    assert names(found) == ["pointers-differ"]
    assert found[0]["evidence"] == "latest names global_step20, latest_universal global_step10_universal"


def test_a_half_written_step(saved, doctor):
    (saved / "latest").write_text("global_step10")
    (saved / "global_step10/zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    trap = only(doctor(saved), "half-written")
    assert "1 of 2 partitions of the optimizer are there" in trap["evidence"]
    assert trap["fix"] == f"mv {saved / 'global_step10'} {saved / 'global_step10'}.broken"


@pytest.mark.parametrize("case", PADDING, ids=lambda case: f"{case['numel']}over{case['dp']}")
def test_partitions_are_the_recorded_ones(case):
    assert partition_of(case["numel"], case["dp"]) == (case["partition"], case["padding"])


@pytest.mark.parametrize("case", PADDING, ids=lambda case: f"{case['numel']}over{case['dp']}")
def test_padding_that_no_rank_can_lose(tmp_path, case):
    """The recorded error is narrow(): length must be non-negative."""
    step = Step(tmp_path / "global_step5")
    vars(step)["state"] = {
        "dp_world_size": case["dp"], "param_shapes": [{"w": Tensor((case["dp"] * 2,), "float32")}, {"n": (case["numel"],)}],
    }  # fmt: skip
    vars(step)["error"] = None
    found = traps_in("checkpoint", Saved(step.folder, (step,), {}))
    assert bool(found) == (case["error"] is not None)
    if found:
        left = case["partition"] - case["padding"]
        assert found[0].name == "zero-padding"
        assert found[0].evidence.endswith(f"padding {case['padding']:,}, left {left:,}")


def test_another_tensor_parallelism_pads_the_vocabulary(saved, doctor):
    """128 words in 256 rows at TP 2: the loss rose by ln 2 (golden/runs/universalD_tp2_padded256.log)."""
    line = (
        f"LOAD={saved} SAVE=/elsewhere/b DATA_FILE_LIST=x TRAIN_ITERS=5 {{}} LR_WARMUP_FRAC=0 LR=1.1736481776669303e-04 "
        "bash train_alcf.sh --universal-checkpoint --finetune"
    )
    assert doctor(line.format("TP=1")) == []
    trap = only(doctor(line.format("TP=2")), "padded-vocabulary")
    assert trap["evidence"].startswith("128 words, 128 rows as saved, 256 at tensor parallelism 2: 128 rows of zeros")
    assert "ln 256 = 5.5452" in trap["evidence"]
