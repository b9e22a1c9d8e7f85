"""The learning rate over a plan's line: a table by step, CSV, JSON, or a curve in the terminal."""

from __future__ import annotations

import json

from keepwarm.errors import KeepwarmError
from keepwarm.plan.model import Plan
from keepwarm.report.legs import rates, total_steps

ROWS = 20


def parse_steps(text: str | None, total: int, rows: int | None) -> range:
    """`A:B:C` -> steps A to B inclusive by C; None -> all of the line, thinned to about `rows` if given."""
    if text is None:
        return range(0, total + 1, max(1, total // rows) if rows else 1)
    try:
        first, last, every = (int(word) for word in [*text.split(":"), "1"][:3])
        if not (0 <= first <= last <= total and every > 0 and text.count(":") in (1, 2)):
            raise ValueError
    except ValueError:
        raise KeepwarmError(
            f"--steps {text}: not A:B or A:B:C with 0 <= A <= B <= {total}",
            "the line has no other steps",
            f"--steps 0:{total}:{max(1, total // ROWS)}",
        ) from None
    return range(first, last + 1, every)


def print_rates(plan: Plan, steps: str | None, *, as_csv: bool, as_json: bool) -> None:
    """Print the rates; by default a curve and a thinned table."""
    wanted = parse_steps(steps, total_steps(plan), None if as_csv or as_json else ROWS)
    found = list(rates(plan, wanted))
    if as_json:
        print(json.dumps([{"step": s, "lr": lr, "phase": p, "stage": name} for s, lr, p, name in found], indent=1))
        return
    if as_csv:
        print("step,lr,phase")
        for step, lr, phase, _ in found:
            print(f"{step},{lr!r},{phase}")
        return
    print(curve(plan))
    print(f"{'step':>9}  {'LR':>11}  {'phase':9} stage")
    for step, lr, phase, name in found:
        print(f"{step:>9,}  {lr:>11.5g}  {phase:9} {name}")


def curve(plan: Plan, width: int = 78, height: int = 12) -> str:
    """The learning rate of the line as a plot of characters."""
    import plotext

    total = total_steps(plan)
    every = max(1, total // (4 * width))
    points = list(rates(plan, range(0, total + 1, every)))
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.title("learning rate by optimizer step")
    signal = figure.signal([point[0] for point in points], [point[1] for point in points], marker="braille")
    figure.draw(signal.lines())
    return str(figure.build().string(colorless=True))
