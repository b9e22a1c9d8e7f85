"""Saving: keepwarm's checkpoint against torch.save of the same state, and what training notices of it.

    python benchmarks/saving.py [--pairs 7] [--folder FOLDER]

A Llama of 33.5 M parameters with its moments: 402 MB of state. keepwarm's checkpoint is `engine.checkpoint.Saver` from
the call of `save` to the return of `wait`: a copy of the state, DCP, SHA-256 of the weights and of every file, config,
manifest, fsync, rename. The peer is torch.save of the same two state dicts into one file, with fsync, and without: then
the file is gone if the machine goes. Wall seconds, one thread, in turns, each onto an empty folder and after a sync of
the disk.

The stall is the time that `save` blocks the step, against saving with the step waiting to the end. Then steps of a small
batch are trained while a checkpoint is written, against as many without: the whole cost of a checkpoint is what they
take longer, and what `wait` takes after them counts if the write outlasts them. Prints markdown; a bar that is not met
says so. About three minutes; 1.2 GB of disk, and of memory 2.5 GB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pairs import Bar, over, row, spread
from torch.distributed.checkpoint.state_dict import get_state_dict

from keepwarm.engine import model as models
from keepwarm.engine.checkpoint import Saver
from keepwarm.engine.network import Network, network_of
from keepwarm.engine.optimizer import no_decay_groups
from keepwarm.lineage.manifest import Manifest

LLAMA = {
    "type": "llama", "hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 8, "intermediate_size": 1360,
    "tie_word_embeddings": False,
}  # fmt: skip
VOCABULARY, SEQUENCE = 8192, 128
BESIDE_STEPS = 12  # a step of one window of SEQUENCE tokens; a checkpoint takes some of them
FACTS = {
    "parent": None, "arm": "cookbook", "stage": "base", "rung": "base", "attempt": "", "plan": "", "step": 1,
    "samples": 1, "attempt_tokens": 1, "line_tokens": 1, "lr": 1e-3, "lr_max": 1e-3, "phase": "peak",
}  # fmt: skip


class Trained:
    """A model that was trained for a step, so that it has moments; it saves, and it takes more steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network: Network = network_of(models.new_model(models.new_config(LLAMA, VOCABULARY, SEQUENCE), 1))
        self.optimizer = torch.optim.AdamW(no_decay_groups(self.network.model, 0.1), lr=1e-4, fused=True)
        self.saver = Saver(self.network.world)
        self.manifest = Manifest(
            id="checkpoint", architecture_sha256=models.architecture_sha256(self.network.model.config), **FACTS
        )
        self.windows = torch.randint(VOCABULARY, (1, SEQUENCE + 1), generator=torch.Generator().manual_seed(1))
        self.step()

    def step(self) -> None:
        self.network.token_losses(self.windows).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def begin(self) -> None:
        self.saver.save(self.folder / "checkpoint", self.network.model, self.optimizer, self.manifest)

    def keepwarm(self) -> None:
        self.begin()
        self.saver.wait()

    def torch(self, *, synced: bool) -> None:
        weights, moments = get_state_dict(self.network.model, self.optimizer)
        with open(self.folder / "state.pt", "wb") as file:
            torch.save({"model": weights, "optimizer": moments}, file)
            if synced:
                file.flush()
                os.fsync(file.fileno())

    def clear(self) -> None:
        """Nothing of before is on disk, nor waits to be written."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        os.sync()


def wall(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def saved(trained: Trained, pairs: int) -> dict[str, list[float]]:
    """Seconds of every way to save, pair by pair; and of `save` alone."""
    found: dict[str, list[float]] = {"keepwarm": [], "stall": [], "synced": [], "unsynced": []}
    for _ in range(pairs):
        trained.clear()
        stall = wall(trained.begin)
        found["stall"].append(stall)
        found["keepwarm"].append(stall + wall(trained.saver.wait))
        for name in ("synced", "unsynced"):
            trained.clear()
            found[name].append(wall(lambda name=name: trained.torch(synced=name == "synced")))
    return found


def beside(trained: Trained, pairs: int, threads: int) -> dict[str, list[float]]:
    """Steps with and without a checkpoint being written: seconds of all, and of one step while it was written."""
    torch.set_num_threads(threads)
    trained.step()
    found: dict[str, list[float]] = {"quiet": [], "slowed": [], "cost": [], "stall": [], "keepwarm": []}
    for _ in range(pairs):
        trained.clear()
        quiet = [wall(trained.step) for _ in range(BESIDE_STEPS)]
        began = time.perf_counter()
        stall, during = wall(trained.begin), []
        for _ in range(BESIDE_STEPS):
            writing = not (trained.folder / "checkpoint").exists()
            seconds = wall(trained.step)
            if writing:
                during.append(seconds)
        trained.saver.wait()
        cost = time.perf_counter() - began - sum(quiet)
        trained.clear()
        for name, value in (
            ("quiet", statistics.median(quiet)), ("slowed", statistics.median(during)), ("cost", cost),
            ("stall", stall), ("keepwarm", wall(trained.keepwarm)),
        ):  # fmt: skip
            found[name].append(value)
    return found


def print_saved(found: dict[str, list[float]]) -> None:
    """The table of saving while nothing is trained."""
    print("| way | wall s | against | ratio (least-most) | bar |  |\n|---|---|---|---|---|---|")
    ours, stall = found["keepwarm"], found["stall"]
    way = f"keepwarm, to the end | {statistics.median(ours):.2f}"
    print(row(way, "torch.save with fsync", over(ours, found["synced"]), Bar(1.3, most=True)))
    print(row(way, "torch.save without", over(ours, found["unsynced"])))
    stalled = f"keepwarm, what blocks the step | {statistics.median(stall):.2f}"
    print(row(stalled, "keepwarm, to the end", over(stall, ours), Bar(0.25, most=True)))
    for name, words in (("synced", "torch.save with fsync"), ("unsynced", "torch.save without")):
        print(f"| {words} | {spread(found[name])} |  |  |  |  |")


def print_beside(found: dict[str, list[float]], threads: int) -> None:
    """Lines of the table of saving while training goes on."""
    print(row(f"{threads} | the step blocked by `save`", "saving with the step waiting",
              over(found["stall"], found["keepwarm"]), Bar(0.25, most=True)))  # fmt: skip
    print(row(f"{threads} | a step while a checkpoint is written", f"a step ({statistics.median(found['quiet']):.2f} s)",
              over(found["slowed"], found["quiet"])))  # fmt: skip
    print(row(f"{threads} | all that {BESIDE_STEPS} steps and the checkpoint take more",
              f"saving with the step waiting ({statistics.median(found['keepwarm']):.2f} s)",
              over(found["cost"], found["keepwarm"])))  # fmt: skip


def main() -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where checkpoints go; by default the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        torch.set_num_threads(1)
        trained = Trained(Path(name) / "saves")
        trained.folder.mkdir()
        parameters = sum(p.numel() for p in trained.network.model.parameters())
        first = wall(trained.begin)
        trained.saver.wait()
        print(
            f"{parameters / 1e6:.1f} M parameters, {parameters * 12 / 1e6:.0f} MB with moments, {asked.pairs} pairs. The "
            f"first save blocks {first:.2f} s: the copy's memory is new. It is not in the table.\n"
        )
        print_saved(saved(trained, asked.pairs))
        print("\n| threads | what | against | ratio (least-most) | bar |  |\n|---|---|---|---|---|---|")
        for threads in sorted({1, os.cpu_count() or 1}):
            print_beside(beside(trained, asked.pairs, threads), threads)
        trained.saver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
