"""What an average of a trunk's last checkpoints shows of its cooldown, for no training: three seeds.

    python benchmarks/record.py preview FOLDER [--seeds 1 2 3]

Peer: a real cooldown branch (20 % of the stage's tokens more, 1-sqrt) off the same checkpoint, in the same run: the
demonstration's stage 2 with 25 % replay, a checkpoint every 6 steps. A cell is the held-out loss minus that at peak; the
share is what the average gave of what the cooldown gave, over D_0 and the new corpus together. About 2 minutes a seed
on two cores; goes on when stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keepwarm.branches import branch
from keepwarm.demo.main import write_demo
from keepwarm.pipeline import run
from keepwarm.plan.load import load_plan
from keepwarm.plan.model import Plan
from keepwarm.report.terminal import Terminal

AVERAGED = (2, 4, 8)
SAVE_EVERY_TOKENS = 12_288


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked = parser.parse_args()
    plan_path = write_demo(asked.folder)
    print("| seed | off stage 2 at peak | tokens | D_0 | new corpus | share of the cooldown's gain |")
    print("|---|---|---|---|---|---|")
    for seed in asked.seeds:
        plan = load_plan(
            plan_path,
            [f"seed={seed}", f"run.folder=preview-{seed}", f"run.save_every={SAVE_EVERY_TOKENS}", "control=none"],
        )
        quiet = Terminal(out=_stderr())
        run(plan, quiet, until=plan.stages[0].name)
        for row in measure(plan, quiet):
            print(f"| {seed} | {row} |", flush=True)
    return 0


def measure(plan: Plan, quiet: Terminal) -> list[str]:
    """A row for the cooldown and one for each average."""
    stage = plan.stages[0]
    where, old, new = f"{stage.name}@peak", plan.base.corpus, stage.new
    wanted = [("cooldown", None), *(("average", last) for last in AVERAGED)]
    rows, whole = [], 0.0
    for kind, last in wanted:
        _, (made, *_) = branch(plan, quiet, kind, where, last=last)  # type: ignore[arg-type]
        gained = [made.after[name] - made.before[name] for name in (old, new)]
        whole = whole or sum(gained)
        name = f"average of {last}" if last else "cooldown"
        tokens = made.end.attempt_tokens if kind == "cooldown" else 0
        rows.append(f"{name} | {tokens:,} | {gained[0]:+.3f} | {gained[1]:+.3f} | {sum(gained) / whole:.2f}")
    return rows


def _stderr():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console(file=sys.stderr, width=120)


if __name__ == "__main__":
    sys.exit(main())
