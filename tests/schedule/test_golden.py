"""The builders against curves recorded from the reference stack's own scheduler, row by row."""

import csv
from pathlib import Path

import numpy as np
import pytest

from keepwarm.schedule.schedule import (
    Schedule,
    cosine,
    infinite_cosine,
    infinite_inv_sqrt,
    inverse_square_root,
    rewarm,
    wsd,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "lr"
SAMPLES = 16000  # 2000 steps of 8 samples; a schedule's unit is anything proportional to tokens, here 16 a sample
TOKENS = SAMPLES * 16
WARMUP = TOKENS // 100
LR = 2e-4

CURVES: dict[str, Schedule] = {
    "constant_T2000": wsd(LR, WARMUP, TOKENS),
    "linear_T2000_min0": rewarm(LR, WARMUP, TOKENS, "linear"),
    "linear_T2000_min2e-6": rewarm(LR, WARMUP, TOKENS, "linear", 2e-6),
    "cosine_T2000_min0": cosine(LR, WARMUP, TOKENS, 0.0),
    "cosine_T2000_min2e-6": cosine(LR, WARMUP, TOKENS, 2e-6),
    "cosine_T2000_nowarmup": cosine(LR, 0, TOKENS, 2e-6),
    "constcool_f0.1_T2000_min0": wsd(LR, WARMUP, TOKENS, TOKENS // 10),
    "constcool_f0.1_T2000_min2e-6": wsd(LR, WARMUP, TOKENS, TOKENS // 10, lr_min=2e-6),
    "constcool_f0.5_T2000_min2e-6": wsd(LR, WARMUP, TOKENS, TOKENS // 2, lr_min=2e-6),
    "inverse-square-root_T2000_min0": inverse_square_root(LR, WARMUP, TOKENS),
    "infinite-cosine_T2000_cd0.3_c0.4_constlr1e-4_min2e-6": infinite_cosine(
        LR, 1e-4, WARMUP, TOKENS * 3 // 10, TOKENS * 4 // 10, TOKENS * 29 // 100, 2e-6
    ),
    "infinite-inv-square-root_T2000_cd0.3_c0.4_constlr1e-4_min2e-6": infinite_inv_sqrt(
        LR, 1e-4, WARMUP, TOKENS * 3 // 10, TOKENS * 4 // 10, TOKENS * 29 // 100, 2e-6
    ),
}


@pytest.mark.parametrize("case", CURVES)
def test_curve_is_the_recorded_one(case: str) -> None:
    with open(GOLDEN / f"{case}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = np.array([int(row["num_steps"]) * 16 for row in rows])
    recorded = np.array([float(row["lr"]) for row in rows])
    assert len(rows) > 200 and tokens[-1] == TOKENS == CURVES[case].tokens
    np.testing.assert_allclose(CURVES[case].lr(tokens), recorded, rtol=1e-12, atol=0)
