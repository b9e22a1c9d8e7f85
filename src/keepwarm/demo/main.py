"""The demonstration: writes its plan and text into a folder, then is `keepwarm run` of that plan."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path

from keepwarm import files
from keepwarm.demo.text import write_texts
from keepwarm.errors import KeepwarmError
from keepwarm.pipeline import run
from keepwarm.plan.load import load_plan
from keepwarm.report.html import print_report
from keepwarm.report.terminal import Terminal, print_status

MOST_BYTES = 6_000_000  # of each kind of text


def run_demo(folder: Path, steps: float) -> None:
    """Make the demonstration's folder, or go on with the one that is there, and run its plan."""
    if not 0 < steps <= 1:
        raise KeepwarmError(f"--steps {steps:g}: not within (0, 1]", "it is a share of the full steps", "--steps 0.1")
    path = write_demo(folder)
    plan = load_plan(path)
    if steps < 1:
        shorter = [f"base.tokens={_scaled(plan.base.tokens or 0, steps)}", "run.folder=run-short"]
        shorter += [f"stages.{stage.name}.tokens={_scaled(stage.tokens, steps)}" for stage in plan.stages]
        plan = load_plan(path, [*shorter, "verdict.tolerance=9 nats"])
    with Terminal() as terminal:
        run(plan, terminal)
    print_status(plan)
    print(f"plan: {path}")
    print_report(plan)


def write_demo(folder: Path) -> Path:
    """The demonstration's text and plan in `folder`, written unless they are there; returns the plan's path."""
    path = folder / "plan.yaml"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()) and not (folder / "text").is_dir():
            raise KeepwarmError(
                f"{folder}: holds other files",
                "the demonstration writes its own folder",
                "keepwarm demo ANOTHER-FOLDER",
            )
        write_texts(folder / "text", MOST_BYTES)
        files.write_text(path, (resources("keepwarm.demo") / "plan.yaml").read_text(encoding="utf-8"))
    return path


def _scaled(tokens: int, share: float) -> int:
    return max(1, round(tokens * share))
