"""The thermostat against fixed replay shares: what each forgets, what replay it takes, what it learns.

    python benchmarks/record.py thermostat FOLDER [--seeds 1 2 3] [--tolerances .7 .3]

Peer: the cheapest fixed share of 1, 5, 10, 25, 50 % that meets the tolerance, which is known only after all were
trained; same seed, base and tokens, each arm to its end. D_0 = presidents' speeches to 1899, D_1 = docstrings; base of
400 steps, stage of 160 (2,048 tokens a step), at LR_max throughout. Forgetting and gain are at the end, over all
held-out windows, nats per token. A thermostat starts at 5 % within 1 to 50 %; on the way it sees 14 of D_0's 95 windows.
`ratio` = its replay tokens over those of that fixed share. `just meets` is the fixed share at which forgetting, linear
in log(share) between the two fixed arms around the tolerance, equals it: what no list of shares hits but by luck. About
6 CPU minutes a seed; goes on when stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small

from keepwarm.attempt.steering import MIX
from keepwarm.evaluate.heldout import subset

D0, D1 = "early", "technical"
BASE, STAGE = 400 * small.STEP_TOKENS, 160 * small.STEP_TOKENS
SHARES = (1, 5, 10, 25, 50)  # percent


@dataclass(frozen=True, slots=True)
class Arm:
    """One attempt at its end. Nats per token; `replay` = share of all its tokens that were old data."""

    forgetting: float
    seen: float  # forgetting on the windows that are measured on the way
    gain: float
    replay: float
    changes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.7, 0.3])
    asked = parser.parse_args()
    fixed = {seed: {share: fixed_arm(asked.folder, seed, share) for share in SHARES} for seed in asked.seeds}
    print("| seed | fixed share | forgetting | gain |\n|---|---|---|---|")
    for seed, arms in fixed.items():
        for share, arm in arms.items():
            print(f"| {seed} | {share} % | {arm.forgetting:+.3f} | {arm.gain:.3f} |")
    heads = ("tolerance", "seed", "thermostat forgets", "on the windows it saw", "met", "replay", "changes",
             "cheapest fixed share", "it forgets", "ratio", "gain less its gain", "just meets")  # fmt: skip
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    met = []
    for tolerance in asked.tolerances:
        for seed in asked.seeds:
            arm = steered_arm(asked.folder, seed, tolerance)
            met.append(arm.forgetting <= tolerance)
            print(row(tolerance, seed, arm, fixed[seed]))
    print(f"\nThe thermostat met its tolerance in {sum(met)} of {len(met)}.")
    return 0


def fixed_arm(folder: Path, seed: int, share: int) -> Arm:
    plan = small.plan(folder, seed, name="fixed", base=D0, stages=[D1], base_tokens=BASE, stage_tokens=STAGE)
    context, line = small.opened(plan)
    return measured(small.trained(context, line, f"r{share}", small.candidate("replay", shares=[f"{share}%"])))


def steered_arm(folder: Path, seed: int, tolerance: float) -> Arm:
    plan = small.plan(
        folder, seed, name=f"to-{tolerance:g}", base=D0, stages=[D1], base_tokens=BASE, stage_tokens=STAGE,
        tolerance=f"{tolerance:g} nats",
    )  # fmt: skip
    context, line = small.opened(plan)
    return measured(small.trained(context, line, "steered", small.candidate("thermostat")))


def measured(folder: Path) -> Arm:
    records, losses = small.records_of(folder), small.losses_of(folder)
    before = next(record["loss"] for record in records if record["kind"] == "eval")
    fed: dict[str, int] = {}
    for record in records:
        for source, samples in record.get("samples", {}).items():
            role = records[0]["roles"][source]
            fed[role] = fed.get(role, 0) + samples
    changes = sum(record.get("event") == MIX for record in records)
    replay = 1 - fed["new"] / sum(fed.values())
    windows = np.array(small.end(folder).evaluation[D0]["windows"])
    forgotten = windows - np.array(records[0]["references"][D0]["windows"])
    picked = subset(len(windows), records[0]["evaluation"]["subset"][D0])
    return Arm(float(forgotten.mean()), float(forgotten[picked].mean()), before[D1] - losses[D1], replay, changes)


def row(tolerance: float, seed: int, arm: Arm, fixed: Mapping[int, Arm]) -> str:
    """The thermostat's cells, then those of the cheapest fixed share that meets the tolerance."""
    met = "yes" if arm.forgetting <= tolerance else "NO"
    cells = [f"{tolerance:g}", f"{seed}", f"{arm.forgetting:+.3f}", f"{arm.seen:+.3f}", met, f"{arm.replay:.1%}",
             f"{arm.changes}"]  # fmt: skip
    meets = [share for share in SHARES if fixed[share].forgetting <= tolerance]
    if not meets:
        return f"| {' | '.join([*cells, 'none', *[''] * 4])} |"
    best = fixed[meets[0]]
    cells += [f"{meets[0]} %", f"{best.forgetting:+.3f}", f"{arm.replay / best.replay:.2f}",
              f"{arm.gain - best.gain:+.3f}", f"{just_meets(tolerance, fixed):.1%}"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def just_meets(tolerance: float, fixed: Mapping[int, Arm]) -> float:
    """The fixed share whose forgetting is the tolerance, by the measured ones; it lies between two of them."""
    forgetting = [fixed[share].forgetting for share in reversed(SHARES)]
    return float(np.exp(np.interp(tolerance, forgetting, np.log(np.array(SHARES[::-1]) / 100))))


if __name__ == "__main__":
    sys.exit(main())
