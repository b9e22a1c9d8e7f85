"""What the strategist spends to find a rung, against a sweep that trains every candidate to its end.

    python benchmarks/record.py ladder FOLDER [--seeds 1 2 3]

Peer: the seed's ladder for stage 2 -> 3 (cookbook aurora-v1, `strong`) with all its fixed candidates at full budget,
from the same base and stage 2, in the same run: speeches, then docstrings, then code, 0.4 M parameters. From the
sweep's measured forgetting three tolerances a seed are set, halfway between candidates, so that the first candidate of
the ladder that the sweep accepts stands early, in the middle and late. Then `keepwarm run` climbs the same ladder under
each. A cell's tokens are all that its search fed: attempts, cooldown branches, and held-out tokens of evaluations at a
third (a forward pass). Exits 1 unless the median share is at most 40 % and every choice is accepted by the sweep too.
About 15 minutes a seed on one core; goes on when stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path

import small
import yaml

from keepwarm.attempt.line import COOKBOOK, COOLDOWN, Line
from keepwarm.attempt.progress import attempts_of
from keepwarm.attempt.records import Record
from keepwarm.branches import converged
from keepwarm.decisions import record_decision
from keepwarm.errors import GuardError, WorkFailed
from keepwarm.evaluate.references import cooldown_drop
from keepwarm.pipeline import run
from keepwarm.plan.model import Plan
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.strategy.verdict import judge
from keepwarm.work import fill_buffer

BAR = 0.4
STAGE_TOKENS = 100 * small.STEP_TOKENS
STAGE, OLD = "stage3", ("prose", "technical")
PLACES = {
    "early": ("replay-previous-mix",),
    "middle": ("buffer-mix",),
    "late": ("decay-then-introduce", "rewarm-converged"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate at full budget. Forgetting in nats per token of each old corpus; tokens with its evaluations."""

    label: str
    rung: str
    forgetting: Mapping[str, float]
    learned: bool
    tokens: float

    def accepted(self, tolerance: Mapping[str, float]) -> bool:
        return self.learned and all(self.forgetting[name] <= tolerance[name] for name in OLD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked = parser.parse_args()
    heads = ("seed", "winner stands", "tolerance: D_0", "D_1", "the sweep's first", "its tokens", "the strategist's")
    print(f"| {' | '.join((*heads, 'tokens', 'share', 'accepted by both'))} |")
    print("|" + "---|" * 10)
    shares, agreed = [], True
    for seed in asked.seeds:
        outcomes = sweep(asked.folder, seed)
        whole = sum(each.tokens for each in outcomes)
        for place, rungs in PLACES.items():
            tolerance = tolerance_for(outcomes, rungs)
            first = first_accepted(outcomes, tolerance)
            label, spent = climb(asked.folder, seed, place, tolerance)
            chosen = next((each for each in outcomes if each.label == label), None)
            good = chosen is not None and chosen.accepted(tolerance)
            shares.append(spent / whole)
            agreed = agreed and good
            print(
                f"| {seed} | {place} | {tolerance['prose']:.3f} | {tolerance['technical']:.3f} | {first.label} | {whole:,.0f} | "
                f"{label} | {spent:,.0f} | {spent / whole:.1%} | {'yes' if good else 'NO'} |",
                flush=True,
            )
    median = statistics.median(shares)
    print(
        f"\nMedian share {median:.1%} (bar 40 %): {'holds' if median <= BAR else 'DOES NOT HOLD'}; "
        f"every choice accepted by the sweep: {'yes' if agreed else 'NO'}."
    )
    return 0 if median <= BAR and agreed else 1


def first_accepted(outcomes: Sequence[Outcome], tolerance: Mapping[str, float]) -> Outcome | None:
    return next((each for each in outcomes if each.accepted(tolerance)), None)


def tolerance_for(outcomes: Sequence[Outcome], rungs: Sequence[str]) -> dict[str, float]:
    """The tolerances under which the sweep's first accepted candidate belongs to `rungs` with the widest margin."""
    levels = []
    for name in OLD:
        seen = sorted({each.forgetting[name] for each in outcomes})
        levels.append([(a + b) / 2 for a, b in itertools.pairwise(seen) if a + b > 0])
    found = {}
    for pair in itertools.product(*levels):
        tolerance = dict(zip(OLD, pair, strict=True))
        winner = first_accepted(outcomes, tolerance)
        if winner is not None and winner.rung in rungs:
            found[margin(outcomes, winner, tolerance)] = tolerance
    return found[max(found)]


def margin(outcomes: Sequence[Outcome], winner: Outcome, tolerance: Mapping[str, float]) -> float:
    """How clear the case is: how far the winner is within its tolerance and those before it beyond theirs, nats."""
    before = outcomes[: outcomes.index(winner)]
    beyond = [max(each.forgetting[name] - tolerance[name] for name in OLD) for each in before if each.learned]
    return min([tolerance[name] - winner.forgetting[name] for name in OLD] + beyond)


def climb(folder: Path, seed: int, place: str, tolerance: Mapping[str, float]) -> tuple[str, float]:
    """What `keepwarm run` accepts for the stage under a tolerance, and the tokens that its search fed."""
    allowed = {name: f"{value!r} nats" for name, value in tolerance.items()}
    plan, listener = plan_of(folder, seed, f"climb-{place}", allowed), small.quiet()
    try:
        run(plan, listener, until="stage2")
    except WorkFailed:
        record_decision(plan, "stage2", "accept", None, "the benchmark is about the stage after it")
    try:
        run(plan, listener)
    except WorkFailed:
        return "none", spent(plan)
    return next(each.label for each in attempts_of(Path(plan.run.folder), COOKBOOK, STAGE) if each.accepted), spent(
        plan
    )


def plan_of(folder: Path, seed: int, name: str, tolerance: str | Mapping[str, str] = "9 nats") -> Plan:
    cookbook = (resources("keepwarm.plan") / "cookbooks/aurora-v1.yaml").read_text(encoding="utf-8")
    stages = [
        {"new": "technical", "ladder": [{"rung": "replay", "shares": ["25%"]}]},
        {"new": "code", "tokens": STAGE_TOKENS, "ladder": yaml.safe_load(cookbook)["strong"]},
    ]
    return small.plan(folder, seed, name=name, stages=stages, verdict={"tolerance": tolerance})


def sweep(folder: Path, seed: int) -> list[Outcome]:
    """Every candidate at full budget, early stop off, each in an arm of its own; what a guard refuses is not there."""
    plan = plan_of(folder, seed, "sweep")
    context, base = small.opened(plan)
    first = small.end(small.trained(context, base, COOKBOOK, small.candidate("replay", shares=["25%"])))
    buffer = fill_buffer(context, plan.stages[0], base, base.end, first)
    taught = (*base.taught, (plan.stages[0].new, first))
    line = Line(COOKBOOK, first, base.end, taught, buffer, base.attempts | {first.attempt})
    cooled = converged(context, line)
    found = []
    for number, tried in enumerate(each for rung in plan.stages[1].ladder or () for each in candidates(rung)):
        with contextlib.suppress(GuardError):
            arm = small.trained(
                context,
                line,
                f"sweep-{number:02d}",
                tried,
                stage=STAGE,
                cooled=cooled,
                drop=cooldown_drop(first, cooled),
            )
            found.append(outcome(tried, arm, plan.sequence_length))
    return found


def outcome(tried: Candidate, arm: Path, sequence_length: int) -> Outcome:
    records = small.records_of(arm)
    verdict = judge(records)
    return Outcome(
        tried.label,
        tried.rung,
        {name: corpus.forgetting for name, corpus in verdict.old.items()},
        all(corpus.learned for corpus in verdict.new.values()),
        small.end(arm).attempt_tokens + evaluated_tokens(records, sequence_length) / 3,
    )


def evaluated_tokens(records: Sequence[Record], sequence_length: int) -> int:
    """Held-out tokens that were measured for these records."""
    own = (record for record in records if record["kind"] == "eval" and not record["measured_by"])
    return sum(len(windows) * sequence_length for record in own for windows in record["windows"].values())


def spent(plan: Plan) -> float:
    """Tokens that the search of the stage fed: attempts and cooldowns, evaluations at a third (a forward pass)."""
    total = 0.0
    for stage, wanted in (("stage2", (COOLDOWN,)), (STAGE, None)):
        for each in attempts_of(Path(plan.run.folder), COOKBOOK, stage):
            if each.steps and (wanted is None or each.rung in wanted):
                records = small.records_of(each.folder)
                total += each.tokens + evaluated_tokens(records, plan.sequence_length) / 3
    return total


if __name__ == "__main__":
    sys.exit(main())
