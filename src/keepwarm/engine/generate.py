"""A model as a writer: documents sampled token by token, many at a time, with the keys and values of before kept.

The same seed, batch, threads and machine give the same documents. Rows whose document has ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from keepwarm.errors import KeepwarmError


@torch.no_grad()
def sample(
    model: nn.Module, begin: int, ends: Collection[int], *, documents: int, longest: int, vocab_size: int,
    temperature: float, top_p: float, seed: int,
) -> list[list[int]]:  # fmt: skip
    """`documents` lists of token ids below `vocab_size`, none with `begin`: each closed by one of `ends`, or `longest`.

    KeepwarmError if the model's logits are no finite numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    stop = torch.tensor(sorted(ends))
    found: list[list[int]] = [[] for _ in range(documents)]
    rows, inputs = torch.arange(documents), torch.full((documents, 1), begin)
    cache: Any = None
    training = model.training
    model.eval()
    for _ in range(longest):
        out = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[:, -1, :vocab_size].float()
        tokens = _drawn(logits / temperature, top_p, generator)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            found[row].append(token)
        going = (~torch.isin(tokens, stop)).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(rows):
            cache.batch_select_indices(going)
        rows, inputs = rows[going], tokens[going, None]
    model.train(training)
    return found


def _drawn(logits: torch.Tensor, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """One token for each row of (rows, vocabulary): from the most probable ones, that sum up to `top_p` or just more."""
    if not torch.isfinite(logits).all():
        raise KeepwarmError(
            "the base's logits are no finite numbers", "no text can be sampled from it",
            "look at the checkpoint: its weights are damaged, or it needs another precision than fp32",
        )  # fmt: skip
    shares = logits.softmax(dim=-1)
    if top_p < 1:
        ordered, order = shares.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0.0)
        shares = torch.zeros_like(shares).scatter(-1, order, ordered)
    return torch.multinomial(shares, 1, generator=generator).flatten()
