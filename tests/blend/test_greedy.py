"""The reference's greedy order, held against vectors that its compiled helper wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

from keepwarm.blend import greedy
from keepwarm.blend.greedy import Greedy

GOLDEN = Path(__file__).parents[1] / "golden/data"
CASES = json.loads((GOLDEN / "helpers_blending.json").read_text())["weights"]
VECTORS = np.load(GOLDEN / "helpers_blending.npz")


@pytest.fixture(params=["numpy", "compiled"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setenv("KEEPWARM_NUMBA", "0")
    else:
        pytest.importorskip("numba")
        monkeypatch.setattr("keepwarm.blend.scans.WORTH_SAMPLES", 1)
    return str(request.param)


@pytest.mark.parametrize("name", CASES)
def test_bit_for_bit(path: str, name: str) -> None:
    order = Greedy(CASES[name]["weights"])
    source, number = order.locate(0, 2000)
    assert np.array_equal(source, VECTORS[f"{name}_dataset_index"])
    assert np.array_equal(number, VECTORS[f"{name}_dataset_sample_index"])
    counts = dict(zip(range(len(order.weights)), order.counts(2000), strict=True))
    assert [count for count in counts.values() if count] == [count for count in CASES[name]["counts"] if count]


def test_any_place_is_reached_from_a_snapshot(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "SNAPSHOT_SAMPLES", 64)
    weights = CASES["w_mixB"]["weights"]
    order = Greedy(weights)
    late = order.locate(1900, 2000)
    early = order.locate(3, 70)
    assert np.array_equal(late[0], VECTORS["w_mixB_dataset_index"][1900:])
    assert np.array_equal(late[1], VECTORS["w_mixB_dataset_sample_index"][1900:])
    assert np.array_equal(early[0], VECTORS["w_mixB_dataset_index"][3:70])
    assert order.counts(1024) == tuple(np.bincount(VECTORS["w_mixB_dataset_index"][:1024]).tolist())


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [-0.1, 1.1], [float("nan"), 1.0], [float("inf")]])
def test_weights_that_are_no_shares_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be finite"):
        Greedy(bad)
