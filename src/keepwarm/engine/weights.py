"""The identity of weights: the same for the same numbers, however many processes hold them, and in which pieces.

Each slice along a tensor's first dimension is hashed with its place, and the hashes are added up modulo 2^256. A sum
does not mind the order, so every process adds up the slices it holds, and one number a tensor goes round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_MODULUS = 2**256
Sums = dict[str, int]


def weights_sha256(
    state: Mapping[str, torch.Tensor], together: Callable[[Sums], list[Sums]] = lambda mine: [mine]
) -> str:
    """SHA-256 over name, dtype, shape and content of every tensor of a state dict, by name. `together` gives every
    process's value, where the tensors are sharded over several."""
    mine = {name: _slices(tensor.detach()) for name, tensor in state.items()}
    everyone = together(mine)
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        held = everyone if isinstance(tensor, DTensor) else everyone[:1]  # what is not sharded, every process has whole
        digest.update((sum(each[name] for each in held) % _MODULUS).to_bytes(32, "little"))
    return digest.hexdigest()


def _slices(tensor: torch.Tensor) -> int:
    """The sum of the hashes of the slices that this process holds."""
    first, local = _held(tensor)
    if not local.numel():
        return 0
    rows = local.cpu().contiguous().reshape(local.shape[0] if local.ndim else 1, -1).view(torch.uint8).numpy()
    total = 0
    for place, row in enumerate(rows, start=first):
        sha = hashlib.sha256(place.to_bytes(8, "little"))
        sha.update(row.data)
        total += int.from_bytes(sha.digest(), "little")
    return total % _MODULUS


def _held(tensor: Any) -> tuple[int, torch.Tensor]:
    """What this process holds of a tensor, and where that begins along the first dimension."""
    if not isinstance(tensor, DTensor):
        return 0, tensor
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset[0], tensor.to_local()
