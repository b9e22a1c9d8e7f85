"""The no-replay control's curve: on the windows that an attempt is measured on, or none."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from keepwarm.evaluate.control import control_curve, curve

SUBSET = {"d0": 2, "d1": 3}


def point(tokens, old, new, **more):
    """One evaluation on two windows of d0 and three of d1."""
    found = {
        "kind": "eval", "full": False, "step": tokens // 256, "tokens": tokens, "lr": 3e-3,
        "loss": {"d0": old, "d1": new}, "windows": {"d0": [old] * 2, "d1": [new] * 3},
    }  # fmt: skip
    return found | more


POINTS = [
    {"kind": "header"},
    point(0, 2.0, 4.0, full=True),
    {"kind": "train", "step": 1, "tokens": 256, "loss": 3.0},
    point(256, 2.1, 3.5),
    point(512, 2.2, 3.2, lr=6e-3),
    point(1024, 2.3, 3.1, full=True),
]
EXPECTED = {"windows": SUBSET, "lr": 6e-3, "tokens": [256, 512], "loss": {"d0": [2.1, 2.2], "d1": [3.5, 3.2]}}


def test_it_is_the_evaluations_on_the_way():
    assert curve(POINTS, SUBSET) == EXPECTED


def test_only_the_corpora_that_are_asked_for():
    assert curve(POINTS, {"d1": 3}) == {
        "windows": {"d1": 3}, "lr": 6e-3, "tokens": [256, 512], "loss": {"d1": [3.5, 3.2]},
    }  # fmt: skip


@pytest.mark.parametrize(
    "subset",
    [
        pytest.param({"d0": 2, "d1": 4}, id="other windows"),
        pytest.param({"d0": 2, "d2": 3}, id="a corpus it did not measure"),
        pytest.param({}, id="nothing is measured on the way"),
    ],
)
def test_what_can_not_be_compared_is_no_control(subset):
    assert curve(POINTS, subset) is None


def test_one_point_is_no_curve_and_what_is_not_a_number_is_no_point():
    broken = point(768, 2.3, 3.0)
    broken["loss"]["d0"] = None
    assert curve(POINTS[:4], SUBSET) is None
    assert curve([*POINTS[:4], broken], SUBSET) is None
    assert curve([*POINTS, broken], SUBSET) == EXPECTED


@pytest.fixture
def folders(tmp_path):
    """Attempts of no replay at a stage: one without metrics, one with other windows, two that can be compared."""

    def write(name, records):
        folder = tmp_path / "arms" / name
        folder.mkdir(parents=True)
        if records:
            (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    wider = [r | {"windows": {"d0": [2.0] * 4, "d1": [3.0] * 4}} if "windows" in r else r for r in POINTS]
    later = [r | {"lr": 1.0} if "lr" in r else r for r in POINTS]
    return [
        write("cookbook/stage2/00-naive", None), write("no-replay/stage2/00-naive", wider),
        write("no-replay/stage2/01-naive", POINTS), write("no-replay/stage2/02-naive", later),
    ]  # fmt: skip


def attempt(**more):
    return SimpleNamespace(**{"new": "d1", "rung": "replay", "evaluation": SimpleNamespace(subset=SUBSET), **more})


def test_the_first_that_was_measured_on_the_same_windows(folders):
    found = control_curve(folders, attempt())
    assert found == {"from": "no-replay/stage2/01-naive", **EXPECTED}


def test_the_control_has_no_control_and_neither_has_what_teaches_nothing(folders):
    assert control_curve(folders, attempt(rung="naive")) is None
    assert control_curve(folders, attempt(new=None)) is None
    assert control_curve(folders[:2], attempt()) is None
