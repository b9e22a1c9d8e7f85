"""The reference's recorded cases, as flags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keepwarm.schedule.megatron import Flags, parse_flags

CASES = Path(__file__).parents[1] / "golden" / "lr" / "cases.json"
RUN = ["--global-batch-size", "8", "--seq-length", "16"]


@pytest.fixture(scope="session")
def cases() -> dict[str, dict[str, Any]]:
    """Recorded cases by name."""
    return {case["name"]: case for case in json.loads(CASES.read_text())["cases"]}


@pytest.fixture(scope="session")
def flags_of(cases: dict[str, dict[str, Any]]) -> Callable[[str], Flags]:
    """The flags of a recorded case, those in its `extra` too."""

    def flags(name: str) -> Flags:
        extra = {key: value for key, value in cases[name]["extra"].items() if not key.startswith("_")}
        words = [word for key, value in extra.items() for word in ("--" + key.replace("_", "-"), str(value))]
        return parse_flags([*cases[name]["flags"], *words, *RUN])

    return flags


@pytest.fixture(scope="session")
def b10() -> dict[str, Any]:
    """The scheduler state of a real checkpoint: iteration 10 of 20 of a cosine."""
    return {
        "max_lr": 2e-4, "min_lr": 0.0, "lr_warmup_steps": 16.0, "lr_warmup_tokens": None, "lr_decay_steps": 160,
        "lr_decay_tokens": None, "lr_decay_style": "cosine", "num_steps": 80, "num_tokens": 1152, "start_wd": 0.1,
        "end_wd": 0.1, "wd_incr_style": "constant", "wd_incr_steps": 160,
    }  # fmt: skip
