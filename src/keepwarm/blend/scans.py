"""Whether a scan over many samples is worth the compiled loops of compiled.py."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

WORTH_SAMPLES = 1 << 15  # in one call; fewer don't repay loading numba


def compiled_loops(samples: int) -> ModuleType | None:
    """compiled.py, where so many samples repay it, numba is installed and KEEPWARM_NUMBA=0 does not turn it off."""
    return _loaded() if samples >= WORTH_SAMPLES and os.environ.get("KEEPWARM_NUMBA") != "0" else None


@cache
def _loaded() -> ModuleType | None:
    return import_module("keepwarm.blend.compiled") if find_spec("numba") is not None else None
