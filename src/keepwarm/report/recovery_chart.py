"""The evidence of a stage's verdicts as a Vega-Lite specification: what each attempt forgot since the data switched.

One panel an old corpus: forgetting of every attempt over its phase, the tolerance, and where an attempt was forecast to
end when the strategist last decided on it. A point on the way is what the decision there took: measured on a part of the
windows, corrected by what all of them were known to differ by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from keepwarm.attempt.line import COOKBOOK
from keepwarm.report.charts import APART, COLOURS, LEFT, PLOT_WIDTH, Spec, whole
from keepwarm.report.page import Leg, Page
from keepwarm.strategy.evidence import evidence

HEIGHT = 150
X_TITLE = "of the attempt, from where the new data enters"
CAPTION = (
    "Each old corpus: its held-out loss minus its reference, over the same windows, from where the new data enters; on the "
    "way a part of them, corrected by all where these were measured. "
    "Dashed: the tolerance. A ring with a bar: where the attempt was forecast to end at the last decision on it, with the "
    "doubt; a filled point: where it was measured at its end."
)


def recovery(page: Page, stage: str) -> Spec | None:
    """The drawing of a stage; None before an attempt was measured after its switch of data."""
    legs = [leg for leg in page.legs if leg.arm == COOKBOOK and leg.stage == stage and not leg.cooldown and leg.records]
    legs = [leg for leg in legs if any(True for name in leg.records[0]["old"] for _ in _curve(leg, name))]
    if not legs:
        return None
    corpora = list(dict.fromkeys(name for leg in legs for name in leg.records[0]["old"]))
    labels = [leg.progress.label for leg in legs]
    panels = [_panel(page, legs, labels, corpus, last=corpus == corpora[-1]) for corpus in corpora]
    return whole({"vconcat": panels, "spacing": 22, "bounds": "flush", "resolve": APART}, LEFT + 40)


def _panel(page: Page, legs: Sequence[Leg], labels: Sequence[str], corpus: str, *, last: bool) -> Spec:
    curves = [row for leg in legs for row in _curve(leg, corpus)]
    forecasts = [row for leg in legs for row in _forecast(leg, corpus)]
    allowed = sorted({leg.records[0]["tolerance"][corpus]["nats"] for leg in legs if corpus in leg.records[0]["old"]})
    x = {
        "field": "x", "type": "quantitative", "scale": {"domain": [0, 1.02], "nice": False},
        "axis": {"format": "~%", "grid": False, "tickCount": 10, "title": X_TITLE} if last else None,
    }  # fmt: skip
    y = {
        "field": "y",
        "type": "quantitative",
        "axis": {"title": f"{page.plan.called(corpus)} forgot, nats", "tickCount": 5, "minExtent": 34},
    }
    scale = {"domain": list(labels), "range": [f"var(--k{number % COLOURS})" for number in range(len(labels))]}
    legend = {"orient": "top", "title": None, "labelColor": "var(--ink)", "labelLimit": 0, "columns": 4}
    colour = {"field": "attempt", "type": "nominal", "scale": scale, "legend": legend}
    tip = [{"field": name} for name in ("attempt", "tokens", "forgot")]
    ends = [row for row in curves if row["end"]]
    layers = [
        {
            "data": {"values": [{"y": nats} for nats in allowed]},
            "mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--alarm)"},
            "encoding": {"y": y},
        },
        {
            "data": {"values": curves},
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": y, "color": colour},
        },
        {
            "data": {"values": curves},
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0},
            "encoding": {"x": x, "y": y, "tooltip": tip},
        },
        {
            "data": {"values": ends},
            "mark": {"type": "point", "filled": True, "size": 42, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": colour, "tooltip": tip},
        },
    ]  # fmt: skip
    if forecasts:
        layers.append(
            {
                "data": {"values": forecasts},
                "encoding": {"x": x, "color": colour, "tooltip": [{"field": "attempt"}, {"field": "forecast"}]},
                "layer": [
                    {
                        "mark": {"type": "rule", "strokeWidth": 1.6},
                        "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
                    },
                    {"mark": {"type": "point", "filled": False, "size": 44, "opacity": 1}, "encoding": {"y": y}},
                ],
            }
        )
    return {"width": PLOT_WIDTH, "height": HEIGHT, "layer": layers}


def _curve(leg: Leg, corpus: str) -> Iterator[Spec]:
    """Forgetting after the switch of data: on the way as the decisions take it, and as measured at the end."""
    header, seen = leg.records[0], evidence(leg.records)
    if corpus not in header["old"]:
        return
    tokens = {int(record["step"]): int(record["tokens"]) for record in leg.records if record["kind"] == "eval"}
    found = [(int(step) + seen.switch_step, forgot, False) for each in seen.old if each.name == corpus
             for step, forgot in zip(seen.since_steps, each.forgotten, strict=True)]  # fmt: skip
    last = max(int(record.get("step", 0)) for record in leg.records)
    end = next((r for r in leg.records if r["kind"] == "eval" and r["full"] and r["step"] == last), None)
    if end is not None and last > header["switch_step"] and end["loss"].get(corpus) is not None:
        found.append((last, np.mean(end["windows"][corpus]) - np.mean(header["references"][corpus]["windows"]), True))
    for step, forgot, ends in found:
        yield {
            "x": _way(header, step), "y": round(float(forgot), 4), "attempt": leg.progress.label, "end": ends,
            "tokens": f"{tokens[step]:,}", "forgot": f"{forgot:+.3f} nats",
        }  # fmt: skip


def _forecast(leg: Leg, corpus: str) -> Iterator[Spec]:
    """What the last decision on the attempt expected at its end."""
    header = leg.records[0]
    decided = [record for record in leg.records if record["kind"] == "event" and record["event"] == "decision"]
    found = decided[-1]["corpora"].get(corpus, {}) if decided else {}
    if found.get("forecast") is None:
        return
    value, doubt = found["forecast"], found.get("doubt") or 0.0
    yield {
        "x": _way(header, header["steps"]), "y": value, "low": value - doubt, "high": value + doubt,
        "attempt": leg.progress.label,
        "forecast": f"{value:+.3f} +- {doubt:.3f} nats, decided at {decided[-1]['tokens']:,} tokens",
    }  # fmt: skip


def _way(header: Spec, step: int) -> float:
    """How far a step lies between the switch of data and the end."""
    return round(float((step - header["switch_step"]) / max(1, header["steps"] - header["switch_step"])), 4)
