"""No rung of a shipped cookbook drops the optimizer's moments at a rate that it does not warm up to, unless by name."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import Line, feed_of
from keepwarm.attempt.resolve import Request
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError
from keepwarm.lineage.manifest import checkpoints_of, read_manifest
from keepwarm.plan.cookbook import load_cookbook, shipped
from keepwarm.plan.load import load_plan
from keepwarm.plan.rungs import Incremental, candidates

STARTS = {
    "at peak": {},
    "at peak, no moments": {"optimizer_state": False},
    "cooled": {"phase": "cooled", "lr": 0.0},
    "cooled, no moments": {"phase": "cooled", "lr": 0.0, "optimizer_state": False},
    "merged": {"phase": "merged", "optimizer_state": False},
    "decayed by a rung": {"phase": "cooled", "lr": 3e-5, "rung": "decay-then-introduce"},
}
ALLOWED = [(), ("peak-start",), ("peak-start", "phase-match"), ("optimizer-state",), ("peak-start", "optimizer-state")]


def every_candidate():
    """Of every rung in the shipped cookbooks, and of incremental introduction, which only a plan names."""
    rungs = [Incremental(rung="incremental"), Incremental(rung="incremental", schedule="peak")]
    for cookbook in map(load_cookbook, shipped()):
        rungs += [*cookbook.weak, *cookbook.strong, *cookbook.last]
    found = {each.label: each for rung in rungs for each in candidates(rung)}
    return found | {f"incremental {rung.schedule}": candidates(rung)[0] for rung in rungs[:2]}


CANDIDATES = every_candidate()


@pytest.fixture(scope="module")
def request_of(searched):
    """Makes the request of a candidate, from the end of a real base as it would be in another state."""
    with contextlib.chdir(searched):
        plan = load_plan("plan.yaml", ["stages.stage2.tokens=1_024"])
        feed = feed_of(prepare(plan, lambda text: None), ())
        saved = [read_manifest(path) for path in checkpoints_of(Path("run/arms/cookbook/base/00-base"))]

    def make(label, state, allow):
        trunk = [replace(each, **STARTS[state]) for each in saved]
        line = Line("cookbook", trunk[-1], None, (("d0", trunk[-1]),), None, frozenset())
        stage = plan.stages[0].model_copy(update={"allow": allow})
        return Request(plan, stage, feed, line, 0, CANDIDATES[label], trunk, trunk[-1])

    return make


@pytest.mark.parametrize("label", CANDIDATES)
def test_moments_are_kept_or_a_warm_up_precedes_them_unless_allowed_by_name(request_of, searched, label):
    tried = refused = 0
    with contextlib.chdir(searched):
        for state in STARTS:
            for allow in ALLOWED:
                try:
                    attempt, start = resolve(request_of(label, state, allow))
                except KeepwarmError:  # a decay from LR 0 is no guard's
                    refused += 1
                    continue
                tried += 1
                kept = attempt.moments == "keep" and start.optimizer_state
                warmed = attempt.schedule.lr(0) == 0.0 < attempt.schedule.lr(attempt.step_tokens)
                assert kept or warmed or "optimizer-state" in attempt.allow, (state, allow)
                assert (attempt.moments == "keep") <= start.optimizer_state, (state, allow)
    assert tried + refused == len(STARTS) * len(ALLOWED) and refused


def test_every_rung_comes_to_be_tried(request_of, searched):
    """So what holds above holds of attempts, not of refusals alone. A mix with B needs a buffer, which is not here."""
    found = set()
    with contextlib.chdir(searched):
        for label, candidate in CANDIDATES.items():
            for state in STARTS:
                with contextlib.suppress(GuardError):
                    resolve(request_of(label, state, ()))
                    found.add(candidate.rung)
    assert {each.rung for each in CANDIDATES.values()} - found == {"buffer-mix", "balance"}


def test_a_rung_at_peak_without_moments_is_refused_by_its_guard(request_of, searched):
    with contextlib.chdir(searched):
        for label, candidate in CANDIDATES.items():
            if candidate.rung in ("naive", "replay", "replay-previous-mix", "incremental"):
                with pytest.raises(GuardError) as refusal:
                    resolve(request_of(label, "at peak, no moments", ("peak-start", "phase-match")))
                assert refusal.value.guard == "optimizer-state", label
