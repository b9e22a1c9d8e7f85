"""What `keepwarm lr` was asked for: one source, one output, and nothing that would be ignored."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from keepwarm.errors import KeepwarmError
from keepwarm.report.lr_curve import Curve, of_megatron, of_plan, of_schedule


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's arguments."""

    plan: Path | None
    schedule: str | None
    megatron: str | None
    state: Path | None
    steps: str | None
    csv: bool
    json: bool
    html: Path | None
    to_megatron: bool
    changes: tuple[str, ...]


def show(asked: Asked) -> None:
    """Print or write what was asked for. Raises KeepwarmError on two sources or outputs, or on what fits neither."""
    _refuse(asked)
    if asked.to_megatron:
        _print_flags(asked)
        return
    curve = _curve(asked)
    if asked.html is not None:
        from keepwarm.report.learning_rate import warn
        from keepwarm.report.lr_page import write_page

        warn(curve)
        write_page(curve, asked.html)
        print(asked.html)
        return
    from keepwarm.report.learning_rate import print_rates

    print_rates(curve, asked.steps, as_csv=asked.csv, as_json=asked.json)


def _curve(asked: Asked) -> Curve:
    if asked.plan is not None:
        from keepwarm.plan.load import load_plan

        return of_plan(load_plan(asked.plan, asked.changes))
    if asked.schedule is not None:
        return of_schedule(asked.schedule)
    return of_megatron(asked.megatron or "", asked.state)


def _print_flags(asked: Asked) -> None:
    from keepwarm.report.to_megatron import print_plan_flags, schedule_flags

    if asked.plan is not None:
        from keepwarm.plan.load import load_plan

        print_plan_flags(load_plan(asked.plan, asked.changes))
    else:
        print(shlex.join(schedule_flags(asked.schedule or "")))


def _refuse(asked: Asked) -> None:
    sources = {"PLAN": asked.plan, "--schedule": asked.schedule, "--megatron": asked.megatron}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise KeepwarmError(
            f"{' and '.join(given)} together" if given else "neither PLAN nor --schedule nor --megatron",
            "one learning rate is shown, and it comes from one of them",
            f"leave out {given[-1]}" if given else "keepwarm lr plan.yaml",
        )
    outputs = {
        "--csv": asked.csv,
        "--json": asked.json,
        "--html": asked.html is not None,
        "--to-megatron": asked.to_megatron,
    }
    wanted = [name for name, value in outputs.items() if value]
    if len(wanted) > 1:
        raise KeepwarmError(
            f"{' and '.join(wanted)} together", "there is one output", f"keepwarm lr {given[0]} ... {wanted[0]}"
        )
    wrong = {
        "--state": (asked.state is not None and asked.megatron is None, "it is the state that --megatron flags resume"),
        "--set": (bool(asked.changes) and asked.plan is None, "it changes a key of a plan"),
        "--to-megatron": (asked.to_megatron and asked.megatron is not None, "these are the trainer's flags already"),
        "--steps": (asked.steps is not None and wanted in (["--html"], ["--to-megatron"]), "all of the curve is used"),
    }
    for name, (there, why) in wrong.items():
        if there:
            raise KeepwarmError(f"{name} with {given[0]} {' '.join(wanted)}".rstrip(), why, f"leave out {name}")
