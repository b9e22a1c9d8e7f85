"""What a GPU does differently: its own precision, compiling, sharding over NCCL. Skipped, visibly, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import worker

from keepwarm.cli.main import main
from keepwarm.engine.machine import measure_machine, memory_bytes
from keepwarm.engine.parallel import alone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
BASE = "run/arms/cookbook/base/00-base"


def losses(folder: Path) -> list[float]:
    lines = (folder / BASE / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for line in lines if (record := json.loads(line))["kind"] == "train"]


def test_a_gpu_multiplies_faster_in_bf16_and_is_measured_by_its_name():
    machine = measure_machine(torch.device("cuda", 0), 1)
    assert machine.device == torch.cuda.get_device_name(0)
    assert machine.peak["bf16"] > 1.5 * machine.peak["fp32"]
    assert memory_bytes(torch.device("cuda", 0)) > 0


def test_fp32_on_a_gpu_is_fp32_on_a_cpu(tmp_path):
    """Losses and norms of a few steps, against the CPU's; and going on from a checkpoint, bit for bit."""
    found = worker.observe(alone(), tmp_path)
    cpu = subprocess.run(
        [sys.executable, worker.__file__, str(tmp_path)],
        env={"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert cpu.returncode == 0, cpu.stderr
    expected = json.loads((tmp_path / "rank-1-0.json").read_text())
    for key in ("tied steps", "untied steps"):
        flat = [value for pair in found[key] for value in pair]
        assert flat == pytest.approx([value for pair in expected[key] for value in pair], rel=1e-3)
    assert found["tied bitwise"] and found["untied bitwise"]


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_a_run_in_bf16_is_stopped_and_goes_on(edit_plan, workplace, compiled):
    edit_plan(("precision: fp32", "precision: bf16"))
    words = ["run", "plan.yaml", "--stage", "stage2", "--set", f"run.compile={compiled}"]
    assert main(words) == 0
    header = json.loads((workplace / BASE / "metrics.jsonl").read_text().splitlines()[0])
    assert header["precision"] == "bf16" and header["compiled"] == (compiled == "always")
    assert losses(workplace)[-1] < losses(workplace)[0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_gpus_feed_the_samples_of_one(workplace):
    command = [sys.executable, "-m", "keepwarm.cli.main", "run", "plan.yaml", "--stage", "stage2", "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = losses(workplace)
    assert main(["run", "plan.yaml", "--stage", "stage2", "--set", "run.folder=alone"]) == 0
    lines = (workplace / "alone/arms/cookbook/base/00-base/metrics.jsonl").read_text().splitlines()
    one = [record["loss"] for line in lines if (record := json.loads(line))["kind"] == "train"]
    assert two == pytest.approx(one, rel=1e-3)
