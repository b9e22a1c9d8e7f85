"""`keepwarm report PLAN`: one HTML file that shows what happened and why."""

from __future__ import annotations

from pathlib import Path


def report(
    plan: Path, /, *, output: Path | None = None, picture: Path | None = None, set: list[str] | None = None
) -> int:
    """Write a run's report: one HTML file that opens from disk. Works at any point of a run.

    Parameters
    ----------
    plan
        The plan file.
    output
        Write it to this file instead of report.html in the run folder.
    picture
        Write the timeline alone to this file instead, as SVG.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm.plan.load import load_plan
    from keepwarm.report.html import write_picture, write_report

    asked = load_plan(plan, set or ())
    print(write_report(asked, output) if picture is None else write_picture(asked, picture))
    return 0
