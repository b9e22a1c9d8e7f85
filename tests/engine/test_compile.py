"""Compiled blocks and activations that are computed again: the same losses, by what is on record of an attempt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keepwarm.attempt.records import read_metrics
from keepwarm.cli.main import main
from keepwarm.engine.loop import Training
from keepwarm.engine.network import Network

COMMAND = ["run", "plan.yaml", "--stage", "stage2"]
BASE, STAGE2 = "cookbook/base/00-base", "cookbook/stage2/00-replay"


def losses(run: str, attempt: str = STAGE2) -> list[float]:
    return [
        each["loss"] for each in read_metrics(Path(run) / "arms" / attempt / "metrics.jsonl") if each["kind"] == "train"
    ]


def held_out(run: str) -> list[float]:
    found = [each for each in read_metrics(Path(run) / "arms" / STAGE2 / "metrics.jsonl") if each["kind"] == "eval"]
    return [loss for each in found for loss in each["loss"].values()]


def compiled(run: str, attempt: str = STAGE2) -> bool:
    return bool(read_metrics(Path(run) / "arms" / attempt / "metrics.jsonl")[0]["compiled"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch asks for it where it looks whether there is one
def test_a_compiled_model_trains_the_same_and_is_measured_eagerly(workplace, monkeypatch, manifest_of):
    assert main([*COMMAND, "--set", "run.folder=eager"]) == 0
    assert not compiled("eager") and not manifest_of(workplace / "eager", STAGE2)["compiled"]  # auto: it would not pay
    compiling, write, token_losses = [], Training._write, Network.token_losses
    measured = []

    def interrupted(self, record):
        write(self, record)
        if self.attempt.stage == "stage2" and self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    def noting(self, windows):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found = token_losses(self, windows)
        made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        (compiling if self.model.training else measured).append(made)
        return found

    monkeypatch.setattr(Network, "token_losses", noting)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_write", interrupted)
        assert main([*COMMAND, "--set", "run.compile=always"]) == 130
    assert sum(compiling) > 0 and sum(measured) == 0 and len(measured) > 0
    assert main(COMMAND) == 0  # the plan says auto: the attempt goes on as it began
    for attempt in (BASE, STAGE2):
        assert compiled("run", attempt) and manifest_of(workplace / "run", attempt)["compiled"]
    assert losses("run", BASE) == pytest.approx(losses("eager", BASE), abs=1e-4)
    assert losses("run") == pytest.approx(losses("eager"), abs=1e-3)  # rounding grows with the steps
    assert held_out("run") == pytest.approx(held_out("eager"), abs=1e-3)


def test_activations_that_are_computed_again_change_nothing(workplace, manifest_of):
    assert main([*COMMAND, "--set", "run.folder=kept"]) == 0
    assert main([*COMMAND, "--set", "run.activation_checkpointing=true"]) == 0
    for attempt in (BASE, STAGE2):
        mine, kept = manifest_of(workplace / "run", attempt), manifest_of(workplace / "kept", attempt)
        assert mine["weights_sha256"] == kept["weights_sha256"] and losses("run", attempt) == losses("kept", attempt)
    headers = [read_metrics(workplace / run / "arms" / STAGE2 / "metrics.jsonl")[0] for run in ("run", "kept")]
    assert [each["activation_checkpointing"] for each in headers] == [True, False]


MEMORY = """
import re, sys, torch
from functools import partial
from keepwarm.engine.build import Blueprint, Computing, make_network
from keepwarm.engine.model import new_config, new_model
from keepwarm.engine.parallel import alone
torch.set_num_threads(1)
config = new_config({"type": "llama", "hidden_size": 128, "layers": 12, "heads": 4, "kv_heads": 4}, 64, 512)
how = Computing(precision="fp32", world_size=1, recomputed=sys.argv[1] == "recomputed")
network = make_network(Blueprint(config, partial(new_model, config, 0), True), alone(), how, None, restored=False)
network.model.train()
def peak():  # of this program alone: ru_maxrss begins with that of the process it was forked from
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
network.token_losses(torch.zeros((8, 513), dtype=torch.int32)).sum().backward()
print(peak() - before)
"""


def test_activations_that_are_computed_again_take_less_memory():
    """Of 12 blocks one at a time; the logits and one block's stay. Each in a process of its own, whose peak is its own."""
    grown = [
        int(subprocess.run([sys.executable, "-c", MEMORY, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "recomputed")
    ]
    assert grown[1] < 0.85 * grown[0], json.dumps(grown)  # 0.54 to 0.76, by how the allocator falls
