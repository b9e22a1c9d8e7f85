"""The processes of a run, and what they do together: share a word, add numbers, divide rows, shard a model.

Every process has the whole order of data and reads its own rows of each global batch, so a run feeds the same samples
at any world size. A world of one process needs no process group, and its model is not wrapped. In a larger one each
decoder block is a unit of FSDP2 (Zhao et al. 2304.11277): parameters, gradients and moments are sharded over all
processes, a block's parameters are whole only while it computes. Both save and load the same checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous

# Followers wait for the leader while it evaluates, hashes or asks the strategist; a dead process is noticed at once.
PATIENCE = timedelta(days=10)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run as one of them sees them. Rank 0 leads: it alone writes records and manifests."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device
    words: dist.ProcessGroup | None  # what the processes tell each other, on the CPU; None where there is one process
    saves: dist.ProcessGroup | None  # a group of the saving threads' own: on another's they would take its messages
    bell: PrefixStore | None = None  # what one process leaves there, others may wait for

    @property
    def leads(self) -> bool:
        """True of the one process that writes."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        told = [value if self.leads else None]
        dist.broadcast_object_list(told, src=0, group=self.words)
        return told[0]  # type: ignore[return-value]

    def total(self, value: torch.Tensor | float) -> float:
        """The sum of a number over all processes, in float64."""
        if self.size == 1:
            return float(value)
        number = torch.as_tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(number)
        return number.item()

    def together(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        return self._gathered(value, self.words)

    def gather_saved(self, value: T) -> list[T]:
        """`together`, for the threads that save."""
        return self._gathered(value, self.saves)

    def _gathered(self, value: T, group: dist.ProcessGroup | None) -> list[T]:
        if self.size == 1:
            return [value]
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, value, group=group)
        return told

    def wait_for_all(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.words)

    def part(self, rows: int) -> slice:
        """The rows of a global batch that are this process's: as even as can be, in order of rank."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def largest_part(self, rows: int) -> int:
        """The most rows that any process has."""
        return -(-rows // self.size)


def alone() -> World:
    """A world of this process alone, on its GPU where there is one."""
    return World(0, 1, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), None, None)


def join() -> World:
    """The world that the environment of torchrun names (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE)."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # The sums of a step go over NCCL, which has its own watch over the GPUs; words and checkpoints over gloo.
    store, _, _ = next(rendezvous("env://"))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    words, saves = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    return World(rank, size, local_size, device, words, saves, PrefixStore("keepwarm", store))


def micro_batches(rows: int, most: int, micro_batch_size: int) -> list[tuple[int, int]]:
    """(first, stop) of the micro-batches of `rows` rows. A process with fewer than the `most` that another has takes
    part in as many: a sharded model computes in step, so the last may be empty (first == stop)."""
    count = -(-most // micro_batch_size)
    return [(min(rows, k * micro_batch_size), min(rows, (k + 1) * micro_batch_size)) for k in range(count)]


def shard(model: nn.Module, world: World, dtype: torch.dtype | None) -> nn.Module:
    """FSDP2 over all processes: each decoder block a unit, the rest (embeddings, norm, head) another.

    Parameters stay fp32; with `dtype` blocks compute in it, and gradients are added up in fp32.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks: what transformers says must not be split; none where it does not say."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def materialize(
    model: nn.Module, world: World, buffers: Mapping[str, torch.Tensor], whole: Callable[[], nn.Module] | None
) -> None:
    """Give a sharded model without storage its memory, its buffers, and the weights of `whole`, which the leader alone
    makes; without it the weights are left to be loaded."""
    model.to_empty(device=world.device)
    for name, buffer in buffers.items():
        model.get_buffer(name).copy_(buffer)
    if whole is not None:
        state = whole().state_dict() if world.leads else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, state, options=options)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as one process would have it: of a sharded one all of it, by every process's help."""
    full = getattr(tensor, "full_tensor", None)
    return full() if full is not None else tensor
