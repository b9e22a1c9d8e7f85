"""`keepwarm forecast PLAN`: short pilots say what each replay share would come to."""

from __future__ import annotations

from pathlib import Path


def forecast(
    plan: Path,
    /,
    *,
    stage: str,
    pilot: str = "2%",
    shares: str = "0,5%,25%",
    budgets: str | None = None,
    control: bool = False,
    json: bool = False,
    svg: Path | None = None,
    set: list[str] | None = None,
    nproc: int | None = None,
    time_limit: str | None = None,
) -> int:
    """Train short pilots at a few replay shares, and forecast the stage's losses at every share and budget.

    The run's line stays as it is. Pilots that are there are read, not repeated; once the stage was trained, the forecast's
    error is shown too.

    Parameters
    ----------
    plan
        The plan file.
    stage
        Which stage is forecast; those before it must be accepted.
    pilot
        Length of a pilot: a share of the stage's tokens, or tokens.
    shares
        Replay shares of the pilots, with commas between them.
    budgets
        Tokens to forecast for, with commas: 100k,300k,1M; half the stage, the stage and twice the stage when left out.
    control
        A pilot on old data alone too: what more of it would do is then measured, not taken from the line's record.
    json
        Print everything as JSON.
    svg
        Draw the forecast into this file; needs keepwarm[report].
    set
        Change a key of the plan, as for `run`.
    nproc, time_limit
        As for `run`.
    """
    from keepwarm.backends.jobs import as_job
    from keepwarm.cli import arguments
    from keepwarm.errors import KeepwarmError
    from keepwarm.forecasts import Settings
    from keepwarm.forecasts import forecast as forecast_stage
    from keepwarm.plan.load import load_plan
    from keepwarm.report.forecast_chart import write_forecast
    from keepwarm.report.forecasted import measured_error, print_forecast
    from keepwarm.report.terminal import Terminal, console_aside, print_json

    asked = load_plan(plan, set or ())
    names = [each.name for each in asked.stages]
    if stage not in names:
        raise KeepwarmError(
            f"--stage {stage}: the plan has no such stage", "nothing was trained", f"one of: {', '.join(names)}"
        )
    settings = Settings(
        arguments.length(pilot, "--pilot"),
        arguments.share_list(shares, "--shares"),
        arguments.counts(budgets, "--budgets") if budgets else (),
        control,
    )

    def story() -> int:
        with Terminal(out=console_aside() if json else None, table=True) as terminal:
            found = forecast_stage(asked, terminal, stage, settings)
        errors = measured_error(asked, stage)
        if svg is not None:
            write_forecast(found, errors, svg)
        if json:
            print_json({**found, "measured": errors})
        else:
            print_forecast(found, errors)
        return 0

    seconds = None if time_limit is None else arguments.seconds(time_limit, "--time-limit")
    return as_job(story, arguments.given, nproc, seconds)
