"""A stage's forecast as an SVG file: what each replay share would forget and gain, with intervals, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.errors import KeepwarmError
from keepwarm.report import drawing
from keepwarm.report.charts import APART, COLOURS, LEFT, Spec, whole
from keepwarm.strategy.forecast import INTERVAL
from keepwarm.units import format_count

MADE_BY = "<!-- keepwarm forecast -->"
WIDTH, HEIGHT = 640, 190
Record = Mapping[str, Any]


def write_forecast(record: Record, errors: Sequence[Record], output: Path) -> None:
    """Write the drawing into `output`, which may only replace another one of these.

    Raises KeepwarmError without vl-convert, or if `output` is something else.
    """
    engine = drawing.engine()
    if output.exists() and not (output.is_file() and MADE_BY in output.read_bytes()[:4096].decode(errors="replace")):
        raise KeepwarmError(
            f"--svg {output}: is there, and is no drawing of a forecast",
            "nothing is overwritten silently",
            f"choose another name, or remove it first: rm {output}",
        )
    picture = drawing.in_light_colours(engine.vegalite_to_svg(drawn(record, errors)))
    place = picture.index(">") + 1
    files.write_text(output, f"{picture[:place]}{MADE_BY}{picture[place:]}\n", replace=True)


def drawn(record: Record, errors: Sequence[Record]) -> Spec:
    """One panel a corpus: forgetting of an old one, gain of the new one, against the replay share; a line a budget."""
    names = list(record["corpora"])
    panels = [_panel(record, errors, name, first=name == names[0], last=name == names[-1]) for name in names]
    title = {
        "text": f"{record['stage']}: what a replay share would come to",
        "subtitle": f"Bands: {INTERVAL:.0%} of the bootstrap draws. Dashed: tolerance. Points: measured at an attempt's end.",
        "anchor": "start", "color": "var(--ink)", "subtitleColor": "var(--muted)", "subtitleFontSize": 12, "offset": 14,
    }  # fmt: skip
    content = {"vconcat": panels, "spacing": 32, "bounds": "flush", "resolve": APART, "title": title}
    return whole(content, LEFT) | {"background": "var(--paper)", "padding": 12}


def _panel(record: Record, errors: Sequence[Record], name: str, *, first: bool, last: bool) -> Spec:
    corpus = record["corpora"][name]
    old = corpus["role"] == "old"
    budgets = [format_count(tokens) for tokens in sorted({row["tokens"] for row in record["table"]})]
    scale = {"domain": budgets, "range": [f"var(--k{number % COLOURS})" for number in range(len(budgets))]}
    legend = {"orient": "top", "title": "tokens of the stage", "labelColor": "var(--ink)", "titleColor": "var(--muted)"}
    colour = {"field": "budget", "type": "nominal", "scale": scale, "legend": legend if first else None}
    x = {
        "field": "x", "type": "quantitative", "scale": {"type": "sqrt", "domain": [0, 0.5], "nice": False},
        "axis": {"format": "~%", "values": [0, 0.01, 0.05, 0.1, 0.25, 0.5], "grid": False,
                 "title": "replay share" if last else None},
    }  # fmt: skip
    y = {
        "field": "y", "type": "quantitative", "scale": {"zero": old, "nice": True},
        "axis": {"title": f"{name} {'forgot' if old else 'gained'}, nats", "tickCount": 5, "minExtent": 34},
    }  # fmt: skip
    rows, seen = list(_rows(record, name, old)), list(_seen(record, errors, name, old))
    band: Spec = {
        "mark": {"type": "area", "opacity": 0.18},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": colour},
    }
    line: Spec = {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {"x": x, "y": y, "color": colour}}
    layers: list[Spec] = [{"data": {"values": rows}, "layer": [band, line]}]
    if old:
        rule = {"type": "rule", "strokeDash": [6, 4], "color": "var(--alarm)"}
        layers.append({"data": {"values": [{"y": corpus["tolerance"]}]}, "mark": rule, "encoding": {"y": y}})
    if seen:
        point = {"type": "point", "filled": True, "size": 55, "opacity": 1, "color": "var(--ink)"}
        layers.append({"data": {"values": seen}, "mark": point, "encoding": {"x": x, "y": y}})
    return {"width": WIDTH, "height": HEIGHT, "layer": layers}


def _rows(record: Record, name: str, old: bool) -> Iterator[Spec]:
    for row in record["table"]:
        found = row["forgetting"][name] if old else row["gain"]
        yield {"x": row["share"], "y": found["value"], "budget": format_count(row["tokens"])} | {
            key: found[key] for key in ("low", "high")
        }


def _seen(record: Record, errors: Sequence[Record], name: str, old: bool) -> Iterator[Spec]:
    corpus = record["corpora"][name]
    for each in errors:
        if each["corpus"] == name and each["share"] <= 0.5:
            moved = each["measured"] - corpus["reference"] if old else corpus["before"] - each["measured"]
            yield {"x": each["share"], "y": round(moved, 4)}
