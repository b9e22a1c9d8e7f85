"""A learning rate as one HTML file: the curve with its phases, what is not as it seems, and where it comes from."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from keepwarm import __version__, files
from keepwarm.errors import KeepwarmError
from keepwarm.report import drawing
from keepwarm.report.charts import Spec, whole
from keepwarm.report.html import EMBED, POLICY
from keepwarm.report.lr_curve import Curve, Row, turning_points

MADE_BY = '<meta name="generator" content="keepwarm lr">'
POINTS = 600
WIDTH, HEIGHT, OUTSIDE = 980, 330, 90  # px
MOVING = ("warming", "decaying")
COLOURS = {"warming": "var(--k1)", "peak": "var(--k2)", "decaying": "var(--k0)", "cooled": "var(--k3)"}


def write_page(curve: Curve, output: Path) -> None:
    """Write the page into `output`, which may only replace another one of these.

    Raises KeepwarmError without vl-convert, or if `output` is something else.
    """
    engine = drawing.engine()
    if output.exists() and not (output.is_file() and MADE_BY in output.read_bytes()[:4096].decode(errors="replace")):
        raise KeepwarmError(
            f"--html {output}: is there, and is no page of a learning rate",
            "nothing is overwritten silently",
            f"choose another name, or remove it first: rm {output}",
        )
    files.write_text(output, _document(curve, engine), replace=True)


def _document(curve: Curve, engine: Any) -> str:
    rows = turning_points(curve, POINTS)
    spec = chart(curve, rows)
    content = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    picture = drawing.renumbered(engine.vegalite_to_svg(spec), "lr")
    findings = curve.findings or ()
    told = "".join(
        f'<div class="verdict exhausted"><h3>{number}. {_e(each.what)}</h3><p>{_e(each.why)}</p>'
        f"<pre>{_e(each.fix)}</pre></div>"
        for number, each in enumerate(findings, start=1)
    )
    asked = f"<h2>Made from</h2><pre>{_e(curve.asked)}</pre>" if curve.asked else ""
    others = f"<p>Not about the learning rate: {_e(' '.join(curve.others))}</p>" if curve.others else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MADE_BY}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(curve.title)}: learning rate</title><style>{drawing.style()}</style></head><body>"
        f"<header><h1>Learning rate: {_e(curve.title)}</h1><p>Steps {curve.first_step:,} to {curve.last_step:,}. "
        "Step k shows the rate after k optimizer steps, which step k + 1 uses.</p></header><main>"
        f'<figure><div class="chart" data-spec="lr-spec" data-least="480" tabindex="0" role="group" '
        f'aria-label="the curve: its turning points are in the table below"><div>{picture}</div></div>'
        f'<script type="application/json" id="lr-spec">{content}</script></figure>'
        + (f"<h2>Not as it seems</h2>{told}" if told else "")
        + f"<h2>Turning points</h2>{_table(rows)}{asked}{others}</main>"
        f'<footer class="muted">keepwarm {__version__}</footer>'
        f"<script>{engine.javascript_bundle()}</script><script>{EMBED}</script></body></html>\n"
    )


def chart(curve: Curve, rows: Sequence[Row]) -> Spec:
    """The curve as a Vega-Lite specification: a line coloured by phase, findings as numbered rules, values on hover."""
    highest = max(row.lr for row in rows) or 1.0
    x: Spec = {
        "field": "step", "type": "quantitative",
        "axis": {"title": "optimizer steps", "grid": False, "format": ",d", "tickCount": 8},
        "scale": {"domain": [curve.first_step, max(curve.last_step, curve.first_step + 1)], "nice": False},
    }  # fmt: skip
    y: Spec = {
        "field": "lr", "type": "quantitative",
        "axis": {"title": "learning rate", "labelExpr": "datum.value ? format(datum.value, '~e') : '0'", "tickCount": 5},
        "scale": {"domain": [0, highest * 1.05], "nice": False},
    }  # fmt: skip
    shown = list(dict.fromkeys(row.phase for row in rows))
    colour = {
        "field": "phase", "type": "nominal", "scale": {"domain": shown, "range": [COLOURS[name] for name in shown]},
        "legend": {"orient": "top", "title": None, "labelColor": "var(--ink)", "symbolType": "stroke", "labelFontSize": 12},
    }  # fmt: skip
    line = {
        "data": {"values": list(_segments(rows))},
        "mark": {"type": "line", "strokeWidth": 2.6, "strokeCap": "round"},
        "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "piece"}},
    }
    tip = [
        {"field": "step", "type": "quantitative", "format": ","},
        {"field": "lr", "type": "quantitative", "format": ".6g", "title": "learning rate"},
        *({"field": name} for name in ("phase", *(("stage",) if any(row.stage for row in rows) else ()))),
    ]
    near = {"name": "near", "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}}
    dots = {
        "data": {"values": [row._asdict() for row in rows]},
        "params": [near],
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": {
            "x": x, "y": y, "color": colour, "tooltip": tip,
            "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
        },
    }  # fmt: skip
    layers = [*_marks(curve, rows, x), line, dots]
    return whole({"width": WIDTH, "height": HEIGHT, "layer": layers}, OUTSIDE)


def _segments(rows: Sequence[Row]) -> Iterator[Spec]:
    """The rows as a line in pieces of one phase, end to end; between two phases the one in which LR moves is drawn."""
    piece, phase = 0, ""
    for left, right in pairwise(rows):
        here = left.phase if left.phase in MOVING else right.phase
        if here != phase:
            piece, phase = piece + 1, here
            yield {"step": left.step, "lr": left.lr, "phase": phase, "piece": piece}
        yield {"step": right.step, "lr": right.lr, "phase": phase, "piece": piece}


def _marks(curve: Curve, rows: Sequence[Row], x: Spec) -> list[Spec]:
    """Dashed rules at the findings' steps with their numbers, and the stages' names where they begin."""
    numbered: dict[int, list[str]] = {}
    for number, each in enumerate(curve.findings or (), start=1):
        if each.step is not None and curve.first_step <= each.step <= curve.last_step:
            numbered.setdefault(each.step, []).append(str(number))
    found: list[Spec] = []
    if numbered:
        values = [{"step": step, "words": ", ".join(numbers)} for step, numbers in numbered.items()]
        rule = {"type": "rule", "strokeDash": [5, 4], "color": "var(--alarm)", "opacity": 0.8}
        text = {"type": "text", "dx": 5, "align": "left", "color": "var(--alarm)", "fontWeight": "bold"}
        found.append(
            {"data": {"values": values}, "encoding": {"x": x}, "layer": [
                {"mark": rule},
                {"mark": text, "encoding": {"y": {"value": 8}, "text": {"field": "words"}}},
            ]}
        )  # fmt: skip
    starts = [b for a, b in pairwise([Row(0, 0.0, ""), *rows]) if b.stage != a.stage]
    if starts:
        text = {"type": "text", "align": "left", "dx": 4, "color": "var(--muted)"}
        rule = {"type": "rule", "color": "var(--grid)"}
        words = {"y": {"value": HEIGHT - 8}, "text": {"field": "stage"}}
        found.append(
            {"data": {"values": [row._asdict() for row in starts]}, "encoding": {"x": x}, "layer": [
                {"mark": rule}, {"mark": text, "encoding": words},
            ]}
        )  # fmt: skip
    return found


def _table(rows: Sequence[Row]) -> str:
    """First and last step of each phase, and of each stage."""
    ends = [
        row
        for before, row, after in zip([None, *rows[:-1]], rows, [*rows[1:], None], strict=True)
        if before is None or after is None or (before[2:] != row[2:]) or (after[2:] != row[2:])
    ]
    stages = any(row.stage for row in rows)
    head = "".join(f"<th{' class=n' if n < 2 else ''}>{name}</th>" for n, name in enumerate(("step", "LR", "phase")))
    body = "".join(
        f"<tr><td class=n>{row.step:,}</td><td class=n>{row.lr:.5g}</td><td>{_e(row.phase)}</td>"
        + (f"<td>{_e(row.stage)}</td>" if stages else "")
        + "</tr>"
        for row in ends
    )
    stage = "<th>stage</th>" if stages else ""
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}{stage}</tr></thead><tbody>{body}</tbody></table></div>'


def _e(text: object) -> str:
    return html.escape(str(text))
