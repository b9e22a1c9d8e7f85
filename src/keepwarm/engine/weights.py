"""The identity of weights: the same for the same numbers, however many processes hold them, and in which pieces.

Each slice along a tensor's first dimension is hashed, and the hashes, times an odd number by their place, are added up
modulo 2^256. A sum does not mind who adds first, so every process adds up the slices it holds, and one number a tensor
goes round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_MODULUS = 2**256
Sums = dict[str, int]


def weights_sha256(
    state: Mapping[str, torch.Tensor], together: Callable[[Sums], list[Sums]] = lambda own: [own]
) -> str:
    """SHA-256 over name, dtype, shape and content of every tensor of a state dict, by name. `together` gives every
    process's value, where the tensors are sharded over several."""
    return sha256_of(state, together(sums_of(state)))


def sums_of(state: Mapping[str, torch.Tensor]) -> Sums:
    """By name, the sum of the hashes of the slices that this process holds."""
    return {name: _slices(tensor.detach()) for name, tensor in state.items()}


def sha256_of(state: Mapping[str, torch.Tensor], sums: Sequence[Sums]) -> str:
    """The hash of a state dict from the sums of every process."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        held = sums if isinstance(tensor, DTensor) else sums[:1]  # what is not sharded, every process has whole
        digest.update((sum(each[name] for each in held) % _MODULUS).to_bytes(32, "little"))
    return digest.hexdigest()


def _slices(tensor: torch.Tensor) -> int:
    """The sum of the hashes of the slices that this process holds."""
    first, local = _held(tensor)
    if not local.numel():
        return 0
    rows = local.shape[0] if local.ndim else 1
    held = local.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    size = len(held) // rows
    sha256, number, total = hashlib.sha256, int.from_bytes, 0
    for row in range(rows):
        place = 2 * (first + row) + 1
        total += place * number(sha256(held[row * size : (row + 1) * size]).digest(), "little")
    return total % _MODULUS


def _held(tensor: Any) -> tuple[int, torch.Tensor]:
    """What this process holds of a tensor, and where that begins along the first dimension."""
    if not isinstance(tensor, DTensor):
        return 0, tensor
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset[0], tensor.to_local()
