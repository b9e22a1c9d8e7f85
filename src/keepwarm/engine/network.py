"""A model and how it is computed here: the losses of its windows, on its device, in its precision, in every process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from keepwarm.blend.boundaries import document_positions
from keepwarm.engine.parallel import World, alone, micro_batches

DOCUMENTS_APART_NATS = 1e-3  # rounding: the same document in windows of other lengths
LEAK_NATS = 1e-4  # in windows of one length: measured at most 5e-7 without a leak, 5e-4 and more with one
LOSS_BATCH = 32  # windows measured at a time, at most
LOSS_LOGITS = 1 << 27  # and logits of theirs: 512 MiB in fp32
CrossEntropy = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of every target. logits (batch, S, vocabulary), targets (batch, S) -> (batch, S), fp32."""
    flat = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction="none"
    )
    return flat.reshape(targets.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """A model in a world. A sharded model has its precision in itself; `autocast` is that of one that is whole."""

    model: nn.Module
    world: World
    autocast: torch.dtype | None = None
    document_eod: int | None = None  # attention ends and positions restart at it; transformers reads both off positions
    cross_entropy: CrossEntropy = cross_entropy

    def token_losses(self, windows: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats of every predicted token. windows (batch, S + 1) on the CPU -> (batch, S)."""
        ids, more = windows.long(), dict[str, torch.Tensor]()
        if self.document_eod is not None:
            positions = torch.from_numpy(document_positions(ids[:, :-1].numpy(), self.document_eod))
            more = {"position_ids": positions.to(self.world.device)}
        ids = ids.to(self.world.device, non_blocking=True)
        with torch.autocast(self.world.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.model(input_ids=ids[:, :-1], **more).logits  # (batch, S, vocabulary)
            return self.cross_entropy(logits, ids[:, 1:])

    def window_losses(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean loss of each window (windows, S + 1) in evaluation mode, shape (windows,), the same in every process;
        each measures its part. The model's mode is put back."""
        config: Any = self.model.config
        world, rows = self.world, len(windows)
        batch = max(1, min(LOSS_BATCH, LOSS_LOGITS // (windows.shape[1] * config.vocab_size)))
        own = torch.from_numpy(windows[world.part(rows)])
        found: list[NDArray[np.float64]] = []
        with self.evaluating():
            for first, stop in micro_batches(len(own), world.largest_part(rows), batch):
                some = own[first:stop] if first < stop else torch.zeros((1, windows.shape[1]), dtype=torch.long)
                losses = self.token_losses(some).double().mean(dim=1)
                found.append(losses[: stop - first].cpu().numpy())
        return np.concatenate(world.together(np.concatenate(found)))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, without gradients. What was compiled for training is not compiled again for this."""
        training, compiled = self.model.training, self.cross_entropy is not cross_entropy
        self.model.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
                yield
        finally:
            self.model.train(training)


def network_of(model: nn.Module, document_eod: int | None = None) -> Network:
    """A whole model in this process alone, in fp32, on the device that it is on."""
    world = alone()
    return Network(model.to(world.device), world, None, document_eod)


def evaluating_network(model: nn.Module, precision: str, document_eod: int | None) -> Network:
    """As `network_of`, its products in `precision`: fp32 or bf16."""
    return replace(network_of(model, document_eod), autocast=torch.bfloat16 if precision == "bf16" else None)


def keeps_documents_apart(network: Network) -> bool:
    """True if the losses of a second document in a window are those it has alone, whatever the first one says.

    Not every architecture does it. Through new weights little leaks, so what leaks is looked for apart from rounding.
    """
    config: Any = network.model.config
    eod = network.document_eod
    assert eod is not None, "the network runs through document ends"
    ids = np.arange(16, dtype=np.int64) * 7 % config.vocab_size
    ids[ids == eod] = (eod + 1) % config.vocab_size
    ids[6] = eod
    after_another = np.concatenate([ids[9:15], ids[6:]])
    alone_loss = network.window_losses(ids[None, 7:])[0]
    with network.evaluating():
        found = network.token_losses(torch.from_numpy(np.stack([ids, after_another])))[:, 7:].double()
    leak = (found[0] - found[1]).abs().max().item()
    return bool(abs(found[0].mean().item() - alone_loss) < DOCUMENTS_APART_NATS and leak < LEAK_NATS)
