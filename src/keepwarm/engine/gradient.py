"""The gradient of one optimizer step: of this process's rows, micro-batch by micro-batch, added up over all processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from keepwarm.engine.network import Network
from keepwarm.engine.parallel import micro_batches, whole


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a step found: mean loss of the global batch in nats per token, norm of its gradient before clipping."""

    loss: float
    norm: float


def gradient(network: Network, tokens: NDArray[np.int32], samples: int, micro_batch_size: int, clip: float) -> Gradient:
    """Leave the clipped gradient of the mean loss over `samples` rows in the parameters. tokens (own rows, S + 1).

    FSDP2 takes the mean over processes, so each gives its part of the sum, times their number. The norm is that of the
    whole gradient at any world size.
    """
    world, rows = network.world, len(tokens)
    length = tokens.shape[1] - 1
    own = torch.from_numpy(tokens)
    loss = torch.zeros((), dtype=torch.float64, device=world.device)
    for first, stop in micro_batches(rows, world.largest_part(samples), micro_batch_size):
        some = own[first:stop] if first < stop else torch.zeros((1, length + 1), dtype=torch.int32)
        part = network.token_losses(some).sum() / (samples * length)
        part = part if first < stop else part * 0
        (part * world.size if world.size > 1 else part).backward()
        loss += part.detach()
    norm = whole(nn.utils.clip_grad_norm_(network.model.parameters(), clip))
    return Gradient(world.total(loss), float(norm))
