"""What the processes of a gloo world do for test_parallel.py: each writes what it saw to FOLDER/rank.json.

torchrun ... worker.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import nn

from keepwarm.attempt.model import Optimizer
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine import model as models
from keepwarm.engine.build import Blueprint, Computing, make_network
from keepwarm.engine.gradient import gradient
from keepwarm.engine.network import Network
from keepwarm.engine.optimizer import adamw
from keepwarm.engine.parallel import World, alone, join, whole
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.manifest import Manifest, read_manifest

LLAMA = {"type": "llama", "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2}
SETTINGS = Optimizer((0.9, 0.95), 1e-8, 0.1, 1.0)
VOCABULARY, LENGTH = 96, 16
ROWS = (7, 5, 1, 2)  # of the global batches of the steps: uneven, fewer than processes, another size each time


def config(tied: bool):
    return models.new_config(LLAMA | {"tie_word_embeddings": tied}, VOCABULARY, LENGTH)


def network(world: World, *, tied: bool = True, precision: str = "fp32", recomputed: bool = False) -> Network:
    made = config(tied)
    how = Computing(precision=precision, world_size=world.size, recomputed=recomputed)
    return make_network(Blueprint(made, lambda: models.new_model(made, 5), True), world, how, None, restored=False)


def batch(step: int) -> np.ndarray:
    rng = np.random.default_rng(step)
    return rng.integers(0, VOCABULARY, (ROWS[step], LENGTH + 1)).astype(np.int32)


def trained(net: Network, optimizer: torch.optim.Optimizer, steps: range) -> list[tuple[float, float]]:
    """Steps over the global batches, this process its rows; losses and gradient norms."""
    net.model.train()
    found = []
    for step in steps:
        rows = batch(step)
        seen = gradient(net, rows[net.world.part(len(rows))], len(rows), 2, SETTINGS.clip)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append((seen.loss, seen.norm))
    return found


def weights_of(model: nn.Module) -> list[list[float]]:
    return [whole(p.detach()).flatten().tolist() for p in model.parameters()]


def manifest(name: str, net: Network) -> Manifest:
    return Manifest(
        id=name, parent=None, arm="a", stage="s", rung="r", attempt="x", plan="p", step=2, samples=0, attempt_tokens=0,
        line_tokens=0, lr=1e-3, lr_max=1e-3, phase="peak",
        architecture_sha256=models.architecture_sha256(net.model.config),
    )  # fmt: skip


def saved(folder: Path, net: Network, optimizer: torch.optim.Optimizer) -> str:
    saver = checkpoints.Saver(net.world)
    saver.save(folder, net.model, optimizer, manifest(folder.name, net))
    saver.wait()
    saver.close()
    return read_manifest(folder).weights_sha256


def restored(folder: Path, world: World, **how) -> tuple[Network, torch.optim.Optimizer]:
    net = network(world, **how)
    optimizer = adamw(net.model, SETTINGS)
    checkpoints.load(folder, read_manifest(folder), net.model, optimizer, world)
    return net, optimizer


def observe(world: World, folder: Path) -> dict:
    """Everything that must be the same at any world size, or be right in a larger one."""
    found: dict = {"part": [(world.part(n).start, world.part(n).stop) for n in (1, 2, 7)]}
    for tied in (True, False):
        net = network(world, tied=tied)
        optimizer = adamw(net.model, SETTINGS)
        name = f"{world.size}-{'tied' if tied else 'untied'}"
        key = "tied" if tied else "untied"
        found[f"{key} drawn"] = weights_sha256(net.model.state_dict(), world.together)
        found[f"{key} steps"] = trained(net, optimizer, range(2))
        found[f"{key} saved"] = saved(folder / name, net, optimizer)
        found[f"{key} more"] = trained(net, optimizer, range(2, 4))
        found[f"{key} weights"] = weights_of(net.model)
        again, moments = restored(folder / name, world, tied=tied)
        found[f"{key} loaded"] = weights_sha256(again.model.state_dict(), world.together)
        found[f"{key} resumed"] = trained(again, moments, range(2, 4))
        same = all(map(torch.equal, *(map(whole, each.model.state_dict().values()) for each in (net, again))))
        found[f"{key} bitwise"] = same
    windows = np.random.default_rng(9).integers(0, VOCABULARY, (5, LENGTH + 1))
    found["windows"] = net.window_losses(windows).tolist()
    found["one window"] = net.window_losses(windows[:1]).tolist()
    recomputing = network(world, recomputed=True)
    found["recomputed"] = trained(recomputing, adamw(recomputing.model, SETTINGS), range(2))
    half = network(world, precision="bf16")
    found["bf16"] = trained(half, adamw(half.model, SETTINGS), range(2))
    found["bf16 kept in"] = str({p.dtype for p in half.model.parameters()})
    found["shared"] = world.share(["from", world.rank, Fraction(1, 3)])[1]
    found["total"] = world.total(world.rank + 0.5)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = join() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else alone()
    found = observe(world, folder)
    if (other := folder / "1-tied").exists() and world.size > 1:  # what one process saved, in several
        net, optimizer = restored(other, world)
        found["of one: loaded"] = weights_sha256(net.model.state_dict(), world.together)
        found["of one: resumed"] = trained(net, optimizer, range(2, 4))
    (folder / f"rank-{world.size}-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
