"""What the machine computes and how fast, the record of it in a run, and training in bf16."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from keepwarm.attempt.records import read_metrics
from keepwarm.cli.main import main
from keepwarm.engine import machine as machines
from keepwarm.engine.build import skeleton
from keepwarm.engine.loop import Training
from keepwarm.engine.machine import Machine, chosen_precision, compiling_pays, flops_per_token, matmul_flops
from keepwarm.engine.model import new_config, new_model

SMALL = {"hidden_size": 32, "layers": 2, "heads": 4}
TYPES = {
    "llama": {"type": "llama", "kv_heads": 2},
    "llama, untied": {"type": "llama", "kv_heads": 2, "tie_word_embeddings": False},
    "gpt-neox": {"type": "gpt_neox"},
    "gpt-2": {"type": "gpt2", "bos_token_id": 0, "eos_token_id": 0},
    "gemma 3": {"type": "gemma3_text", "kv_heads": 1, "head_dim": 16, "sliding_window": 8},
    "qwen 3": {"type": "qwen3", "kv_heads": 2, "head_dim": 16},
    "olmo 2": {"type": "olmo2", "kv_heads": 4, "eos_token_id": 0},
}
CPU = Machine("a processor", 8, {"fp32": 1e12, "bf16": 4e12})
STAGE2 = "cookbook/stage2/00-replay"


@pytest.mark.parametrize("spec", TYPES.values(), ids=TYPES.keys())
def test_flops_are_those_that_torch_counts(spec):
    """Forward as torch counts it, three times: the backward pass multiplies twice as often."""
    model = new_model(new_config(SMALL | spec, 64, 24), 0).eval()
    ids = torch.zeros((5, 24), dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    assert flops_per_token(model, 24) == 3 * counter.get_total_flops() / ids.numel()


def test_flops_of_a_mixture_of_experts():
    """By hand, of 2 of 4 experts: torch does not count what it groups by expert. So it is without storage."""
    spec = {"type": "mixtral", "kv_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 96}
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # query, key and value (2 heads of 8), output
    experts = 2 * 3 * 32 * 96  # up, gate and down
    weights = 2 * (attention + experts + 32 * 4) + 64 * 32  # with router and head
    expected = 6 * weights + 12 * 2 * 32 * 24
    config = new_config(SMALL | spec, 64, 24)
    assert flops_per_token(new_model(config, 0), 24) == flops_per_token(skeleton(config), 24) == expected


def test_a_matrix_product_is_timed():
    found = matmul_flops(torch.device("cpu"), torch.float32, 128)
    assert 1e7 < found < 1e14
    measured = machines.measure_machine(torch.device("cpu"), 1)
    assert measured.threads == 1 and measured.device and set(measured.peak) == {"fp32", "bf16"}
    assert all(flops > 1e8 for flops in measured.peak.values())
    assert machines.measure_machine(torch.device("cpu"), 1) is measured  # once a process


@pytest.mark.parametrize(
    ("bf16", "word", "ratio"), [(1.49e12, "fp32", "1.5"), (1.5e12, "bf16", "1.5"), (8e12, "bf16", "8.0"), (5e11, "fp32", "0.5")]
)  # fmt: skip
def test_bf16_is_taken_where_it_pays(bf16, word, ratio):
    found, why = chosen_precision("auto", Machine("a processor", 8, {"fp32": 1e12, "bf16": bf16}))
    assert found == word
    assert why == f"bf16 matrix products are {ratio} x as fast as fp32 on a processor, it is taken from 1.5 on"


def test_a_precision_that_is_asked_for_is_taken():
    assert chosen_precision("bf16", Machine("a processor", 8, {"fp32": 1e12, "bf16": 1e11})) == (
        "bf16", "the plan says so",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flops", "precision", "processes", "device", "pays"),
    [
        # 2,000 s of eager training at .7 of 1e12 FLOP/s: 2 % of it is 40 s, twice what compiling costs a CPU
        (1.39e15, "fp32", 1, "cpu", False),
        (1.41e15, "fp32", 1, "cpu", True),
        (1.41e15, "fp32", 2, "cpu", False),
        (2.81e15, "fp32", 2, "cpu", True),
        (0.89e15, "bf16", 1, "cpu", False),  # .45 of 4e12, and 8 % of 500 s
        (0.91e15, "bf16", 1, "cpu", True),
        # a GPU: a tenth of 1,800 s is 180 s, twice 90 s; in bf16 a quarter of 720 s
        (1.25e15, "fp32", 1, "cuda", False),
        (1.27e15, "fp32", 1, "cuda", True),
        (1.29e15, "bf16", 1, "cuda", False),
        (1.31e15, "bf16", 1, "cuda", True),
    ],
)
def test_compiling_pays_where_it_saves_twice_its_cost(flops, precision, processes, device, pays):
    assert compiling_pays("auto", flops, CPU, precision, processes, device) is pays
    assert compiling_pays("always", 0.0, CPU, precision, processes, device)
    assert not compiling_pays("never", 1e30, CPU, precision, processes, device)


def test_the_machine_is_measured_once_a_run_and_its_precision_stays(
    edit_plan, workplace, monkeypatch, manifest_of, capsys
):
    asked = []

    def measured(device, threads):
        asked.append(threads)
        return Machine("a processor", threads, {"fp32": 1e12, "bf16": 2e12})

    monkeypatch.setattr(machines, "measure_machine", measured)
    edit_plan(("precision: fp32", "precision: auto"))
    assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
    why = "bf16 matrix products are 2.0 x as fast as fp32 on a processor, it is taken from 1.5 on"
    assert capsys.readouterr().out.count(f"precision bf16: {why}\n") == 1 and asked == [1]
    path = workplace / "run/machine.json"
    assert json.loads(path.read_text()) == {
        "device": "a processor", "threads": 1, "peak": {"fp32": 1e12, "bf16": 2e12}, "precision": "bf16", "why": why,
    }  # fmt: skip
    for attempt in ("cookbook/base/00-base", STAGE2):
        header = read_metrics(workplace / "run/arms" / attempt / "metrics.jsonl")[0]
        manifest = manifest_of(workplace / "run", attempt)
        assert [(each["precision"], each["compiled"], each["world_size"]) for each in (header, manifest)] == [
            ("bf16", False, 1)
        ] * 2
    before = {path: path.read_bytes() for path in (workplace / "run").rglob("*") if path.is_file()}
    edit_plan(("precision: auto", "precision: fp32"))
    assert main(["run", "plan.yaml"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: precision: fp32, but this run's attempts are trained in bf16"
    assert said[2] == "  fix: precision: bf16, or start anew: run: {folder: ...}"
    assert {path: path.read_bytes() for path in before} == before
    assert not list((workplace / "run/arms/cookbook/stage3").glob("*/metrics.jsonl"))  # nothing was trained
    edit_plan(("precision: fp32", "precision: bf16"))  # what it says to write
    assert main(["run", "plan.yaml", "--stage", "stage3"]) == 0


def losses(attempt: str, run: str) -> list[float]:
    return [
        each["loss"] for each in read_metrics(Path(run) / "arms" / attempt / "metrics.jsonl") if each["kind"] == "train"
    ]


def test_bf16_trains_like_fp32_with_fp32_weights_and_goes_on_to_the_bit(
    edit_plan, workplace, monkeypatch, manifest_of, capsys
):
    from torch.distributed.checkpoint import FileSystemReader

    command = ["run", "plan.yaml", "--stage", "stage2"]
    assert main([*command, "--set", "run.folder=fp32"]) == 0
    edit_plan(("precision: fp32", "precision: bf16"))
    assert main(command) == 0
    write = Training._write

    def interrupted(self, record):
        write(self, record)
        if self.attempt.stage == "stage2" and self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_write", interrupted)
        assert main([*command, "--set", "run.folder=stopped"]) == 130
    assert main([*command, "--set", "run.folder=stopped"]) == 0
    for attempt in ("cookbook/base/00-base", STAGE2):
        mine, stopped, exact = (manifest_of(workplace / run, attempt) for run in ("run", "stopped", "fp32"))
        assert (mine["precision"], exact["precision"]) == ("bf16", "fp32")
        assert mine["weights_sha256"] == stopped["weights_sha256"] != exact["weights_sha256"]
        assert losses(attempt, "run") == losses(attempt, "stopped")
        apart = np.subtract(losses(attempt, "run"), losses(attempt, "fp32"))
        assert 0 < abs(apart).max() < 0.1 and abs(apart.mean()) < 0.02
    state = FileSystemReader(workplace / "run" / mine["id"] / "state").read_metadata().state_dict_metadata
    assert {each.properties.dtype for each in state.values() if hasattr(each, "properties")} == {torch.float32}
