"""What the cookbook saves and what it costs: the demonstration's line against its no-replay arm, at several seeds.

    python benchmarks/forgetting.py FOLDER [--seeds 1 2 3]

Peer: plain continuation (the no-replay arm), same base, tokens and seed, in the same run. Writes the table between the
markers of docs/benchmarks.md and exits 1 unless at every seed (a) without replay D_0 rises by more than 1 nat, (b) the
cookbook's arm loses less than half of that, (c) each new corpus, right after its own stage and at peak, is within 0.25
nats of the no-replay arm's, (d) all stages are accepted. About 4 minutes a seed on two cores; goes on when stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from record import machine, put

from keepwarm.demo.main import write_demo
from keepwarm.pipeline import run
from keepwarm.plan.load import load_plan
from keepwarm.plan.model import Plan
from keepwarm.report.status import status
from keepwarm.report.terminal import Terminal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked = parser.parse_args()
    rows, good = [], True
    for seed in asked.seeds:
        plan_path = write_demo(asked.folder)
        plan = load_plan(plan_path, [f"seed={seed}", f"run.folder=run-{seed}"])
        run(plan, Terminal())
        row, holds = measure(plan, seed)
        rows.append(row)
        good = good and holds
    write(rows)
    print("\n".join(rows))
    return 0 if good else 1


def measure(plan: Plan, seed: int) -> tuple[str, bool]:
    found = status(plan)
    arms, d0 = found["arms"], plan.base.corpus
    lost = {arm: facts["forgetting"][d0] for arm, facts in arms.items()}
    price = {
        stage.new: arms["cookbook"]["after"][stage.new][stage.new] - arms["no-replay"]["after"][stage.new][stage.new]
        for stage in plan.stages
    }
    accepted = all(stage["state"] == "accepted" for stage in found["stages"])
    holds = (
        lost["no-replay"] > 1
        and lost["cookbook"] < lost["no-replay"] / 2
        and max(abs(each) for each in price.values()) < 0.25
        and accepted
    )
    rungs = ", ".join(_kept(stage) for stage in found["stages"])
    cells = [
        str(seed),
        f"{lost['no-replay']:.3f}",
        f"{lost['cookbook']:.3f}",
        *(f"{each:+.3f}" for each in price.values()),
    ]
    return f"| {' | '.join([*cells, rungs, 'yes' if holds else 'NO'])} |", holds


def _kept(stage: dict[str, Any]) -> str:
    return next((str(each["label"]) for each in stage["attempts"] if each["accepted"]), "none")


def write(rows: list[str]) -> None:
    head = (
        "| seed | D_0 lost: no replay | with the cookbook | price on D_1 | on D_2 | on D_3 | accepted rungs | holds |"
    )
    put("forgetting", "\n".join([head, "|" + "---|" * 8, *rows, "", f"{machine()} Nats per token."]))


if __name__ == "__main__":
    sys.exit(main())
