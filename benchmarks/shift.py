"""Shift by its four numbers, beside what a small model really forgot: where the borders of strategy/shift.py come from.

    python benchmarks/record.py shift FOLDER [--bases early code] [--seeds 1 2]

A base of 0.4 M parameters is trained on one kind of text; every other kind is then held against it (bits/byte ratio,
Jensen-Shannon divergences beside their nulls, tokens a byte) and taught for 120 steps at LR_max without replay, from that
same base. Forgetting = the base's kind's held-out loss at the end less that of the base, nats per token. The borders were
set on two bases, speeches to 1899 and code, at seeds 1 and 2; a third base at another seed is held out. Peer: each number
alone, by its rank correlation with forgetting. Exits 1 unless on what is held out every row graded `none` or `weak` forgot
less than every row graded `strong`, and these less than every row graded `language`.
About 5 minutes a base and seed on one core; goes on when stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import small

from keepwarm.report.status import base_manifest
from keepwarm.shifts import measured_shift
from keepwarm.strategy.shift import GRADES, MEASURES, Shift

SET_ON, HELD_OUT = (("early", "code"), (1, 2)), (("prose",), (3,))  # bases, seeds
STAGE_TOKENS = 120 * small.STEP_TOKENS


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of text against a base: what was measured before, and what naive continuation forgot."""

    base: str
    seed: int
    new: str
    shift: Shift
    forgotten: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    holds = True
    for title, (bases, seeds) in {"The borders were set on these": SET_ON, "Held out": HELD_OUT}.items():
        print(f"{title}:\n")
        holds = told([row for base in bases for seed in seeds for row in measured(asked.folder, base, seed)])
        print(f"\nThe grades are apart: {'holds' if holds else 'DOES NOT HOLD'}.\n")
    return 0 if holds else 1


def told(rows: list[Row]) -> bool:
    """Print the tables; whether they say what they should."""
    rows.sort(key=lambda row: row.forgotten)
    print("| base | seed | new | bits/byte | unigram JS, null | bigram JS, null | tokens/byte | grade | forgot |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_cells(row))
    print("\n| number | rank correlation with forgetting | of its grade |\n|---|---|---|")
    forgotten = [row.forgotten for row in rows]
    of_grade = {}
    for each in MEASURES:
        values = [getattr(row.shift, each.key) for row in rows]
        of_grade[each.name] = _rank_correlation([GRADES.index(each.grade(value)) for value in values], forgotten)
        print(f"| {each.name} | {_rank_correlation(values, forgotten):+.2f} | {of_grade[each.name]:+.2f} |")
    worst = _rank_correlation([GRADES.index(row.shift.grade) for row in rows], forgotten)
    print(f"| the worst of the four |  | {worst:+.2f} |")
    found = {grade: [row.forgotten for row in rows if row.shift.grade == grade] for grade in GRADES}
    print("\n| grade | rows | forgot, least to most | median |\n|---|---|---|---|")
    for grade, values in found.items():
        said = f"{min(values):+.3f} to {max(values):+.3f} | {np.median(values):+.3f}" if values else " | "
        print(f"| {grade} | {len(values)} | {said} |")
    levels = [each for each in ([*found["none"], *found["weak"]], found["strong"], found["language"]) if each]
    return all(max(below) < min(above) for below, above in pairwise(levels))


def measured(folder: Path, base: str, seed: int) -> list[Row]:
    others = [each for each in small.STREAMS if each != base]
    plan = small.plan(folder, seed, name=f"shift-{base}", base=base, stages=others, stage_tokens=STAGE_TOKENS)
    context, line = small.opened(plan)
    before = base_manifest(plan)
    assert before is not None
    rows = []
    for stage in plan.stages:
        shift = measured_shift(context, line.arm, stage, before)
        end = small.trained(context, line, f"naive-{stage.new}", small.candidate("naive"), stage=stage.name)
        rows.append(Row(base, seed, stage.new, shift, small.losses_of(end)[base] - before.evaluation[base]["loss"]))
    return rows


def _cells(row: Row) -> str:
    found = row.shift
    return (
        f"| {row.base} | {row.seed} | {row.new} | {found.ratio:.2f} | {found.js_unigram:.3f}, {found.js_unigram_null:.3f} | "
        f"{found.js_bigram:.3f}, {found.js_bigram_null:.3f} | {found.fertility:.2f} | {found.grade} | {row.forgotten:+.3f} |"
    )


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: the correlation of ranks, ties at their mean."""
    ranks = [_ranks(np.array(each, dtype=np.float64)) for each in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < each).sum() + ((values == each).sum() - 1) / 2 for each in values])


if __name__ == "__main__":
    sys.exit(main())
