"""The report's timeline as a Vega-Lite specification: held-out losses, learning rate and old data on one token axis.

Colours are the page's CSS variables (`--k0`... lines, `--t0`... text), so that one drawing is readable in light and
dark. Labels stand at the ends of the lines instead of a
legend; those that would overlap are pushed apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keepwarm.attempt.line import BASE, COOKBOOK
from keepwarm.report.page import Leg, Page, d0_words, old_shares, points, taught_by, taught_until
from keepwarm.units import format_share

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is fetched
COLOURS = 6
LOSS_HEIGHT = 300
PLOT_WIDTH = 860  # of the drawing without JavaScript; a script fits it to the window
LEFT, RIGHT = 62, 168  # space that axes and end labels need beside the plot
CHARACTER = 6.1  # width of an 11 px character, roughly, px
LABEL_GAP = 15  # px
ROLE_COLOURS = {"d0": "var(--k0)", "buffer": "var(--buffer)", "previous": "var(--k3)"}
APART = {"scale": {"color": "independent"}}
DASHES = {"kept": [1, 0], "control": [7, 4], "rejected": [2, 2], "running": [1, 0]}


def timeline(page: Page) -> Spec | None:
    """Held-out loss, learning rate and share of old data on one token axis; None before anything was trained."""
    bands = _bands(page)
    loss = _loss_rows(page)
    if not bands or not loss:
        return None
    domain = [bands[0]["x0"], bands[-1]["x1"]]
    panels = [
        _flags(page, bands, domain),
        _loss(page, loss, bands, domain),
        _rate(page, bands, domain),
        _share(page, bands, domain),
    ]
    return whole({"vconcat": panels, "spacing": 14, "bounds": "flush", "resolve": APART}, LEFT + RIGHT)


def whole(content: Spec, outside_px: int) -> Spec:
    """A drawing in the page's style; `outside_px`: the width that its axes and labels need beside the plot."""
    muted = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "titleFontWeight": "normal"}
    axis = {**muted, "gridColor": "var(--grid)", "domainColor": "var(--grid)", "tickColor": "var(--grid)"}
    config = {
        "aria": False,  # thousands of points read aloud help nobody; the tables hold the numbers
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {**axis, "labelFontSize": 11, "titleFontSize": 12},
        "text": {"fontSize": 11, "color": "var(--ink)"},
    }
    usermeta = {"outside": outside_px}
    return {"$schema": SCHEMA, "background": None, "config": config, "usermeta": usermeta, "padding": 2, **content}


def _bands(page: Page) -> list[Spec]:
    """The stretch of each stage, by its longest attempt of the cookbook's arm, and of the cooldown branch."""
    found: dict[str, Spec] = {}
    for leg in page.legs:
        if leg.arm != COOKBOOK or leg.attempt is None:
            continue
        name = "cooldown" if leg.cooldown else leg.stage
        new = d0_words(page) if leg.stage == BASE else leg.attempt.new or ""
        first, last = leg.first_tokens, leg.first_tokens + leg.attempt.tokens
        before = found.get(name, {"x0": first, "x1": last})
        x0, x1 = min(first, before["x0"]), max(last, before["x1"])
        found[name] = {"x0": x0, "x1": x1, "name": name, "new": new}
    bands = sorted(found.values(), key=lambda band: (band["x0"], band["x1"]))
    return [band | {"odd": number % 2} for number, band in enumerate(bands)]


def _band_layer(bands: Sequence[Spec], domain: Sequence[int]) -> Spec:
    return {
        "data": {"values": list(bands)},
        "mark": {"type": "rect", "color": "var(--band)", "tooltip": None},
        "encoding": {
            "x": _x(domain, "x0", axis=False),
            "x2": {"field": "x1"},
            "opacity": {
                "field": "odd",
                "type": "quantitative",
                "scale": {"domain": [0, 1], "range": [0, 1]},
                "legend": None,
            },
        },
    }


def _x(domain: Sequence[int], field: str = "x", *, axis: bool) -> Spec:
    shown = {"format": "~s", "title": "tokens fed to the line", "grid": False, "tickCount": 8} if axis else None
    return {"field": field, "type": "quantitative", "scale": {"domain": list(domain), "nice": False}, "axis": shown}


def _y(field: str, domain: Sequence[float], title: str, ticks: int, number: str) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False, "zero": False},
        "axis": {"title": title, "tickCount": ticks, "labelExpr": number, "minExtent": 34, "titleX": -44},
    }


def _flags(page: Page, bands: Sequence[Spec], domain: Sequence[int]) -> Spec:
    """Stage names over their bands, and under them a small flag in words for each candidate of the ladder."""
    rows = _flag_rows(page, bands, domain)
    count = 1 + max((row["y"] for row in rows), default=0)
    y = {"field": "y", "type": "quantitative", "scale": {"domain": [count - 0.4, -0.6]}, "axis": None}
    tones = {"kept": "var(--good)", "rejected": "var(--alarm)", "skipped": "var(--muted)", "running": "var(--k0)"}
    scale = {"domain": list(tones), "range": list(tones.values())}
    flags = {
        "data": {"values": rows},
        "encoding": {
            "x": _x(domain, axis=False), "y": y,
            "color": {"field": "fate", "type": "nominal", "legend": None, "scale": scale},
            "tooltip": [{"field": "words", "title": "candidate"}, {"field": "reasons", "title": "why"}],
        },
        "layer": [
            {"mark": {"type": "point", "shape": "triangle-right", "filled": True, "size": 60, "xOffset": 6, "opacity": 1}},
            {
                "mark": {"type": "text", "align": "left", "dx": 14, "limit": 420},
                "encoding": {"text": {"field": "words"}},
            },
        ],
    }  # fmt: skip
    names = {
        "data": {"values": [band for band in bands if band["name"] != "cooldown" or _wide(band, domain)]},
        "mark": {"type": "text", "align": "left", "dx": 5, "fontWeight": "bold", "fontSize": 12, "limit": 400},
        "encoding": {"x": _x(domain, "x0", axis=False), "y": {"value": -10}, "text": {"field": "name"}},
    }
    return {"width": PLOT_WIDTH, "height": 19 * count, "layer": [_band_layer(bands, domain), names, flags]}


def _flag_rows(page: Page, bands: Sequence[Spec], domain: Sequence[int]) -> list[Spec]:
    """Each candidate where its stage begins, in the first row in which it does not run into another's words."""
    at = {band["name"]: band["x0"] for band in bands}
    rows: list[Spec] = []
    taken: list[float] = []  # right end of the last flag in each row, px
    for leg in page.legs:
        if leg.arm != COOKBOOK or leg.stage == BASE or leg.cooldown:
            continue
        words = f"{leg.progress.label}: {'accepted' if leg.progress.accepted else leg.progress.outcome or 'running'}"
        x = at.get(leg.stage, domain[1])
        left = (x - domain[0]) / max(1, domain[1] - domain[0]) * PLOT_WIDTH
        row = next((number for number, end in enumerate(taken) if end < left), len(taken))
        taken[row : row + 1] = [left + 16 + CHARACTER * len(words)]
        reasons = " | ".join((leg.progress.verdict or {}).get("reasons", []))
        rows.append({"x": x, "y": row, "words": words, "fate": leg.fate, "reasons": reasons})
    return rows


def _wide(band: Spec, domain: Sequence[int]) -> bool:
    return bool((band["x1"] - band["x0"]) / max(1, domain[1] - domain[0]) * PLOT_WIDTH > CHARACTER * len(band["name"]))


def _kind(leg: Leg) -> str:
    if leg.arm != COOKBOOK:
        return "control"
    return "rejected" if leg.fate == "rejected" else "kept"


def _loss_rows(page: Page) -> list[Spec]:
    rows = []
    for leg in page.legs:
        if leg.attempt is None:
            continue
        taught = taught_until(page, leg.stage)
        for each in points(leg, taught):
            kind, corpus = _kind(leg), page.plan.called(each.corpus)
            part = leg.progress.folder.name if kind == "rejected" or leg.cooldown else ""
            rows.append(
                {
                    "x": each.tokens, "y": round(each.loss, 5), "corpus": corpus, "arm": leg.arm, "kind": kind,
                    "stage": leg.stage, "label": leg.progress.label, "taught": each.taught,
                    "line": f"{leg.arm}/{leg.stage if part else ''}/{part}/{each.corpus}/{each.taught}",
                    "windows": "all" if each.all_windows else "a fixed subset, corrected",
                    "tokens": f"{each.tokens:,}",
                }
            )  # fmt: skip
    return rows


def _loss_domain(page: Page, rows: Sequence[Spec]) -> tuple[float, float]:
    """From the least loss to the largest of a corpus after the stage that taught it."""
    by = {page.plan.called(corpus): stage for corpus, stage in taught_by(page).items()}
    settled = [row["y"] for row in rows if row["taught"] and by.get(row["corpus"]) != row["stage"]]
    lowest = min(row["y"] for row in rows)
    highest = max(settled or [row["y"] for row in rows])
    gap = 0.06 * (highest - lowest) or 0.1
    return lowest - gap, highest + gap


def _ends(page: Page, rows: Sequence[Spec], domain: tuple[float, float]) -> list[Spec]:
    """A label for the last point of each taught corpus and arm, pushed apart to LABEL_GAP."""
    last: dict[tuple[str, str], Spec] = {}
    for row in rows:
        key = (row["arm"], row["corpus"])
        if row["taught"] and row["kind"] != "rejected" and row["x"] >= last.get(key, row)["x"]:
            last[key] = row
    low, high = domain
    found = sorted(last.values(), key=lambda row: -row["y"])
    tops = [(high - min(max(row["y"], low), high)) / (high - low) * LOSS_HEIGHT for row in found]
    for number in range(1, len(tops)):
        tops[number] = max(tops[number], tops[number - 1] + LABEL_GAP)
    over = max(0.0, tops[-1] - LOSS_HEIGHT) if tops else 0.0
    for number in reversed(range(len(tops))):
        tops[number] = min(tops[number], LOSS_HEIGHT - LABEL_GAP * (len(tops) - 1 - number)) if over else tops[number]
    words = [
        f"{row['corpus']} {row['y']:.2f}" + (f" {row['arm']}" if row["kind"] == "control" else "") for row in found
    ]
    pairs = zip(found, tops, words, strict=True)
    return [row | {"top": high - top / LOSS_HEIGHT * (high - low), "words": text} for row, top, text in pairs]


def _colour(page: Page, letter: str) -> Spec:
    values = [f"var(--{letter}{number % COLOURS})" for number in range(len(page.corpora))]
    scale = {"domain": list(map(page.plan.called, page.corpora)), "range": values}
    return {"field": "corpus", "type": "nominal", "scale": scale, "legend": None}


def _dash() -> Spec:
    scale = {"domain": list(DASHES), "range": list(DASHES.values())}
    return {"field": "kind", "type": "nominal", "scale": scale, "legend": None}


def _loss(page: Page, rows: Sequence[Spec], bands: Sequence[Spec], domain: Sequence[int]) -> Spec:
    y_domain = _loss_domain(page, rows)
    inside = [row for row in rows if row["y"] <= y_domain[1]]
    x, y = _x(domain, axis=False), _y("y", y_domain, "held-out loss, nats/token", 6, "format(datum.value, '.1f')")
    weight = {"condition": {"test": "datum.taught", "value": 1.0}, "value": 0.45}
    thick = {"condition": {"test": "datum.taught && datum.kind != 'rejected'", "value": 2.2}, "value": 1.2}
    line = {
        "mark": {"type": "line", "clip": True},
        "encoding": {
            "x": x, "y": y, "color": _colour(page, "k"), "strokeDash": _dash(), "opacity": weight, "strokeWidth": thick,
            "detail": {"field": "line"},
        },
    }  # fmt: skip
    tip = [
        {"field": "corpus"}, {"field": "y", "type": "quantitative", "format": ".3f", "title": "loss, nats/token"},
        {"field": "tokens"}, {"field": "arm"}, {"field": "stage"}, {"field": "label", "title": "attempt"},
        {"field": "windows"},
    ]  # fmt: skip
    dot = {
        "data": {"values": inside},
        "params": [{"name": "near", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}],
        "mark": {"type": "point", "filled": True, "size": 110},
        "encoding": {
            "x": x, "y": y, "color": _colour(page, "k"), "tooltip": tip,
            "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
        },
    }  # fmt: skip
    layers = [_band_layer(bands, domain), {"data": {"values": list(rows)}} | line, dot, _end_labels(page, rows, domain)]
    return {"width": PLOT_WIDTH, "height": LOSS_HEIGHT, "resolve": APART, "layer": layers}


def _end_labels(page: Page, rows: Sequence[Spec], domain: Sequence[int]) -> Spec:
    return {
        "data": {"values": _ends(page, rows, _loss_domain(page, rows))},
        "mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 12, "limit": RIGHT - 10},
        "encoding": {
            "x": {"datum": domain[1], "type": "quantitative"},
            "y": {"field": "top", "type": "quantitative"},
            "text": {"field": "words"},
            "color": _colour(page, "t"),
        },
    }


def _rate(page: Page, bands: Sequence[Spec], domain: Sequence[int]) -> Spec:
    rows: list[Spec] = []
    for leg in page.legs:
        if leg.attempt is None:
            continue
        schedule, total = leg.attempt.schedule, leg.attempt.tokens
        edges = np.cumsum([0, *(piece.tokens for piece in schedule.pieces)])
        for tokens in np.unique(np.concatenate([np.linspace(0, total, 41).astype(np.int64), edges[edges <= total]])):
            rate = float(schedule.lr(int(tokens)))
            rows.append(
                {
                    "x": leg.first_tokens + int(tokens), "lr": rate, "line": f"{leg.arm}/{leg.stage}/{leg.progress.folder.name}",
                    "kind": _kind(leg), "phase": schedule.phase(int(tokens)), "label": leg.progress.label,
                    "tokens": f"{leg.first_tokens + int(tokens):,}",
                }
            )  # fmt: skip
    top = max(row["lr"] for row in rows) * 1.15
    x, y = (
        _x(domain, axis=False),
        _y("lr", [0, top], "learning rate", 3, "datum.value ? format(datum.value, '~e') : '0'"),
    )
    tip = [{"field": name} for name in ("lr", "phase", "tokens", "label")]
    faint = {"condition": {"test": "datum.kind == 'rejected'", "value": 0.4}, "value": 1}
    line = {
        "mark": {"type": "line", "color": "var(--ink)", "strokeWidth": 1.6, "clip": True},
        "encoding": {"x": x, "y": y, "strokeDash": _dash(), "opacity": faint, "detail": {"field": "line"}},
    }
    dots = {"mark": {"type": "point", "opacity": 0, "size": 60}, "encoding": {"x": x, "y": y, "tooltip": tip}}
    layers = [_band_layer(bands, domain), {"data": {"values": rows}, "layer": [line, dots]}]
    return {"width": PLOT_WIDTH, "height": 84, "layer": layers}


def _share(page: Page, bands: Sequence[Spec], domain: Sequence[int]) -> Spec:
    """Stacked shares of the old roles in the cookbook's arm, written in; control arms as dashed lines."""
    blocks, controls = _share_rows(page)
    top = max([0.3, *(row["y2"] for row in blocks), *(row["y"] for row in controls)])
    x, y = _x(domain, axis=True), _y("y", [0, top], "old data", 3, "format(datum.value, '~%')")
    scale = {"domain": [_role_names(page)[role] for role in ROLE_COLOURS], "range": list(ROLE_COLOURS.values())}
    box = {
        "mark": {"type": "rect", "opacity": 0.4},
        "encoding": {
            "x2": {"field": "x2"}, "y2": {"field": "y2"},
            "color": {"field": "role", "type": "nominal", "scale": scale, "legend": None},
        },
    }  # fmt: skip
    middle = {"field": "middle", "type": "quantitative"}
    mark = {"type": "text", "align": "left", "dx": 5, "baseline": "middle", "limit": 160}
    filled = {
        "data": {"values": blocks},
        "encoding": {"x": x, "y": y, "tooltip": [{"field": name} for name in ("role", "share", "label")]},
        "layer": [box, {"mark": mark, "encoding": {"text": {"field": "words"}, "y": middle}}],
    }
    dashed = {
        "data": {"values": controls},
        "mark": {"type": "rule", "strokeDash": DASHES["control"], "color": "var(--ink)", "strokeWidth": 1.5},
        "encoding": {"x": x, "x2": {"field": "x2"}, "y": y, "tooltip": [{"field": "arm"}, {"field": "share"}]},
    }
    return {"width": PLOT_WIDTH, "height": 96, "layer": [_band_layer(bands, domain), filled, dashed]}


def _role_names(page: Page) -> dict[str, str]:
    """What old data is called: D_0, or what stands in for it."""
    base = page.plan.base.corpus
    d0 = page.plan.called(base) if base in page.plan.stand_ins else "D_0"
    return {"d0": d0, "buffer": "B", "previous": "previous mix"}


def _share_rows(page: Page) -> tuple[list[Spec], list[Spec]]:
    """The cookbook's arm as blocks, one a role and stretch; the control arms as their sums."""
    blocks: list[Spec] = []
    controls: list[Spec] = []
    for leg in page.legs:
        for first, last, shares in old_shares(leg) if leg.fate in ("kept", "running") else ():
            place = {"x": first, "x2": last, "arm": leg.arm, "label": leg.progress.label}
            if leg.arm != COOKBOOK:
                total = sum(shares.values())
                controls.append(place | {"y": total, "share": format_share(total)})
                continue
            below = 0.0
            for role, share in shares.items():
                name = _role_names(page).get(role, role)
                above = round(below + share, 9)
                words = "" if leg.cooldown else f"{format_share(share)} {name}"
                blocks.append(
                    place | {"y": below, "y2": above, "middle": (below + above) / 2, "role": name,
                             "share": format_share(share), "words": words}
                )  # fmt: skip
                below = above
    return blocks, controls
