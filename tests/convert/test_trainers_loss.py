"""The proof of the mapping: converted weights have the losses that the trainer itself logged, on the same tokens.

Iteration 11 was computed with the weights of step 10, and so was the evaluation after iteration 10, the second of five.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.loader import Blend
from keepwarm.convert.reader import open_model

GOLDEN = Path(__file__).parents[1] / "golden"
BATCH, ITERATIONS, EVALUATIONS, LENGTH = 8, 20, 5, 16


@pytest.fixture(scope="module")
def model(saved):
    return open_model(saved / "global_step10_universal", trust=True)


def loss_of(model, blend: Blend, batch: int) -> float:
    tokens = torch.from_numpy(np.stack([blend[number] for number in range(batch * BATCH, (batch + 1) * BATCH)]))
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1]).logits.double()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


@pytest.mark.parametrize(
    ("batches", "part", "batch", "pattern"),
    [
        (ITERATIONS, 0, 10, r"iteration= +11/.*?lm loss=(\d+\.\d{6})"),
        (EVALUATIONS, 1, 1, r"validation loss at iteration 10 \| lm loss value=(\d+\.\d{6})"),
    ],
    ids=["training", "validation"],
)
def test_the_converted_model_has_the_trainers_loss(model, monkeypatch, batches, part, batch, pattern):
    monkeypatch.chdir(GOLDEN / "runs/data")
    blend = Blend(Path("list.txt"), batches * BATCH, LENGTH, part=part, split="90,10,0")
    logged = float(re.search(pattern, (GOLDEN / "logs/baseB.log").read_text())[1])
    assert loss_of(model, blend, batch) == pytest.approx(logged, abs=1e-6)
    assert abs(loss_of(model, blend, batch - 1) - logged) > 1e-3  # another batch is told apart
