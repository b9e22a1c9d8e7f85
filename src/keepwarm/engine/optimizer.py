"""AdamW as the plan says (Loshchilov & Hutter 1711.05101), and which parameters have no weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from keepwarm.attempt.model import Optimizer
from keepwarm.errors import PlanError

VECTORS, EMBEDDINGS = "vectors", "embeddings"  # words for the usual groups; others are patterns of parameter names


def adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """The optimizer of a model, fused; its learning rates are 0 until the schedule sets them.

    PlanError if a pattern of `no_decay` names no parameter.
    """
    groups = no_decay_groups(model, settings.weight_decay, settings.no_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)
    for group in groups:
        for p in group["params"]:  # else saving before the first update makes them by a step of its own, which counts
            zero = torch.zeros((), dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": zero, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def no_decay_groups(
    model: nn.Module, weight_decay: float, no_decay: Sequence[str] = (VECTORS,)
) -> list[dict[str, Any]]:
    """AdamW's two groups: what decays, and what does not (`vectors`: norms and biases; `embeddings`; or patterns)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    found = {rule: [name for name, p in named if _falls_under(rule, name, p, tables)] for rule in no_decay}
    for rule, names in found.items():
        if not names and rule not in (VECTORS, EMBEDDINGS):
            raise PlanError(
                f"optimizer.no_decay: {rule!r} is the name of no parameter of this model",
                "what was meant to be left alone would decay",
                f"patterns of names such as {', '.join(name for name, _ in named[:4])}: no_decay: ['*norm*', '*.bias']",
            )
    free = {name for names in found.values() for name in names}
    return [
        {"params": [p for name, p in named if name not in free], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name in free], "weight_decay": 0.0},
    ]


def _falls_under(rule: str, name: str, parameter: nn.Parameter, tables: set[int]) -> bool:
    if rule == VECTORS:
        return parameter.ndim < 2
    if rule == EMBEDDINGS:
        return id(parameter) in tables
    return fnmatch(name, rule)
