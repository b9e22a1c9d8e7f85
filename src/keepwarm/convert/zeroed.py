"""The copy that a restart begins from: a universal copy whose optimizer has seen nothing yet. A task of apart.py.

`--finetune --universal-checkpoint` keeps the moments of the checkpoint, and the first update uses its learning rate.
With moments, steps and rates 0 in the files, the launch's warm-up begins at 0, as it does on the plain checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from keepwarm.convert import pickles

_ZEROED = {"exp_avg.pt", "exp_avg_sq.pt", "step.pt"}
_IN_GROUPS = {"lr", "step"}


def zeroed(source: str, out: str) -> None:
    """Copy a universal copy into the folder `out`: moments, steps, and every `lr` and `step` of the groups are 0."""
    for path in sorted(Path(source).rglob("*")):
        target = Path(out) / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.name in _ZEROED:
            pickles.save(_nothing(pickles.load(path)), target)
        elif path.name == "optimizer_state.pt":
            pickles.save(_restarted(pickles.load(path)), target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _nothing(held: Any) -> Any:
    """The same with zeros: a tensor, a number, or {param: tensor, ...}."""
    if isinstance(held, dict):
        return held | {"param": torch.zeros_like(held["param"].detach())}
    return torch.zeros_like(held) if isinstance(held, torch.Tensor) else type(held)(0)


def _restarted(held: Any) -> Any:
    """The optimizer's state with every rate and step 0, wherever it stands."""
    if isinstance(held, dict):
        return type(held)(
            {key: _nothing(each) if key in _IN_GROUPS else _restarted(each) for key, each in held.items()}
        )
    return type(held)(map(_restarted, held)) if isinstance(held, list | tuple) else held
