"""Recording only, for now."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import small

CALIBRATING = ("early", ("technical", "late"), (1, 2))
TESTING = ("code", ("reasoning", "models", "headers"), (3, 4))
BASE, STAGE = (steps * small.STEP_TOKENS for steps in (320, 120))
ARMS = {
    "r0": ("naive", {}),
    "r5": ("replay", {"shares": ["5%"]}),
    "slow": ("replay-rewarm", {"lr": ["lr_max/50"]}),
    "x10": ("replay-rewarm", {"lr": ["10 lr_max"]}),
    "r25": ("replay", {"shares": ["25%"]}),
    "r95": ("replay", {"shares": ["95%"]}),
    "x30": ("replay-rewarm", {"lr": ["30 lr_max"]}),
    "r1": ("replay", {"shares": ["1%"]}),
    "r60": ("replay", {"shares": ["60%"]}),
}


def recorded(folder: Path, base: str, streams: tuple[str, ...], seed: int, arms) -> dict[tuple[str, str], Path]:
    stages = [{"name": stream, "new": stream} for stream in streams]
    plan = small.plan(
        folder, seed, name=base, base=base, stages=stages, base_tokens=BASE, stage_tokens=STAGE,
        holdout={"tokens": 8_000}, run={"folder": f"{base}-{seed}", "threads": 1, "save_every": 1_000_000},
    )  # fmt: skip
    context, line = small.opened(plan)
    found = {}
    for arm in arms:
        rung, settings = ARMS[arm]
        for stream in streams:
            tried = small.candidate(rung, **settings)
            found[stream, arm] = small.trained(context, line, arm, tried, stage=stream)
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    for arms in (list(ARMS)[:4], list(ARMS)[4:]):
        for base, streams, seeds in (CALIBRATING, TESTING):
            for seed in seeds:
                recorded(asked.folder, base, streams, seed, arms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
