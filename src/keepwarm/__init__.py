"""keepwarm: continual pre-training that plans, mixes, trains, judges, and shows why.

What is here is for scripts (docs/python.md). It is imported when it is first asked for, so `import keepwarm` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepwarm.api import RunResult, open_attempt, resolve_attempt, run_plan
    from keepwarm.errors import KeepwarmError, WorkFailed
    from keepwarm.plan.load import load_plan
    from keepwarm.work import Listener

__version__ = "0.1.0"
__all__ = [
    "KeepwarmError", "Listener", "RunResult", "WorkFailed", "load_plan", "open_attempt", "resolve_attempt", "run_plan",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A name of `__all__` (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("keepwarm.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
