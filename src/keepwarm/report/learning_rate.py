"""The learning rate by step: a curve in the terminal with a thinned table, CSV, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from types import ModuleType

from keepwarm.errors import KeepwarmError
from keepwarm.plan.model import Plan
from keepwarm.report.lr_curve import Curve, Row, of_plan, turning_points
from keepwarm.report.table import aligned

ROWS = 20
BLOCK = 10_000  # rows made at a time
FARTHEST = 10**10  # step; where every flag's curve has long ended


def parse_steps(text: str | None, curve: Curve) -> range:
    """`A:B:C` -> steps A to B inclusive by C; None -> all of the curve."""
    first, last = curve.first_step, curve.last_step
    if text is None:
        return range(first, last + 1)
    try:
        begin, end, by = (int(word) for word in [*text.split(":"), "1"][:3])
        if not (first <= begin <= end and by > 0 and text.count(":") in (1, 2)) or (
            end > (FARTHEST if curve.open_ended else last)
        ):
            raise ValueError
    except ValueError:
        beyond = FARTHEST if curve.open_ended else last
        raise KeepwarmError(
            f"--steps {text}: not A:B or A:B:C with {first} <= A <= B <= {beyond}",
            "there are no other steps",
            f"--steps {first}:{last}:{max(1, (last - first) // ROWS)}",
        ) from None
    return range(begin, end + 1, by)


def print_rates(curve: Curve, steps: str | None, *, as_csv: bool, as_json: bool) -> None:
    """Print the rates; by default a plot and a thinned table. Findings go to the standard error."""
    asked = parse_steps(steps, curve)
    warn(curve)
    if as_json:
        _print_json(curve, asked)
    elif as_csv:
        print("step,lr,phase")
        for rows in _blocks(curve, asked):
            print("\n".join(f"{row.step},{row.lr!r},{row.phase}" for row in rows))
    else:
        print(plot(curve))
        _print_table(turning_points(curve, ROWS) if steps is None else curve.rows(asked))


def _print_table(rows: list[Row]) -> None:
    stages = any(row.stage for row in rows)
    cells = [(f"{r.step:,}", f"{r.lr:.5g}", r.phase, *((r.stage,) if stages else ())) for r in rows]
    head = ("step", "LR", "phase", *(("stage",) if stages else ()))
    print("\n".join(aligned([head, *cells], right=(0, 1))))


def _blocks(curve: Curve, steps: range) -> Iterator[list[Row]]:
    """The rows of `steps`, some at a time: a run of millions of steps is printed in little memory."""
    for begin in range(0, len(steps), BLOCK):
        yield curve.rows(steps[begin : begin + BLOCK])


def _print_json(curve: Curve, steps: range) -> None:
    """A list with one row a line; with findings, an object that holds it."""
    print("[" if curve.findings is None else '{"rows": [')
    for number, rows in enumerate(_blocks(curve, steps)):
        listed = ({name: value for name, value in row._asdict().items() if name != "stage" or value} for row in rows)
        print((",\n" if number else "") + ",\n".join(map(json.dumps, listed)), end="")
    print("\n]", end="\n" if curve.findings is None else "")
    if curve.findings is not None:
        rest = {"findings": [finding.to_dict() for finding in curve.findings], "not_about_lr": list(curve.others)}
        print(f",\n{json.dumps(rest, indent=1)[2:]}")


_NO_MENU = ModuleType("plotext._doc.doc")
_NO_MENU.docs = None  # type: ignore[attr-defined]


def warn(curve: Curve) -> None:
    """The findings, each in three lines on the standard error, and the flags that were passed over."""
    for finding in curve.findings or ():
        print(f"warning: {finding}", file=sys.stderr)
    if curve.others:
        print(f"not about the learning rate: {' '.join(curve.others)}", file=sys.stderr)


def curve(plan: Plan, width: int = 78, height: int = 13) -> str:
    """The learning rate of a plan's line as a plot of characters."""
    return plot(of_plan(plan), width, height)


def plot(curve: Curve, width: int = 78, height: int = 13) -> str:
    """A curve as a plot of characters."""
    sys.modules.setdefault("plotext._doc.doc", _NO_MENU)  # its documentation's menu takes two thirds of its import
    import plotext

    points = turning_points(curve, 4 * width)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.title("learning rate by optimizer step")
    signal = figure.signal([point.step for point in points], [point.lr for point in points], marker="braille")
    figure.draw(signal.lines())
    for axis, values in (("x", [point.step for point in points]), ("y", [0.0, *(point.lr for point in points)])):
        ticks = _ticks(min(values), max(values))
        figure.ruler(axis).ticks(ticks, [f"{tick:,.0f}" if axis == "x" else _rate(tick) for tick in ticks])
    return str(figure.build().string(colorless=True))


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    by = next(power * each for each in (1, 2, 5, 10) if (high - low) / (power * each) <= about)
    first = math.ceil(low / by - 1e-9)
    return [number * by for number in range(first, math.floor(high / by + 1e-9) + 1)]


def _rate(lr: float) -> str:
    """2e-4, not 0.0002."""
    digits, _, power = f"{lr:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}" if lr else "0"
