"""The report's lineage tree as a Vega-Lite specification: checkpoints by parent, stage by stage.

The cookbook's line lies on top, rejected attempts hang below it as leaves, each control arm has a lane of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keepwarm.attempt.line import BASE, COOKBOOK
from keepwarm.lineage.manifest import Manifest
from keepwarm.report.charts import DASHES, Spec, whole
from keepwarm.report.page import Page
from keepwarm.units import format_count

COLOURS = {"kept": "var(--k0)", "control": "var(--ink)", "rejected": "var(--muted)", "running": "var(--k1)"}


def lineage(page: Page) -> Spec | None:
    """Checkpoints by parent: the ends of the attempts, and those in between that another attempt started from."""
    nodes = _nodes(page)
    if not nodes:
        return None
    left, right = min(node["x"] for node in nodes), max(node["x"] for node in nodes)
    lanes = max(node["y"] for node in nodes)
    place = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [left - 0.1, right + 0.9], "nice": False}},
        "y": {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [lanes + 0.35, -0.7], "nice": False}},
    }  # fmt: skip
    look = {
        "color": _by_fate(COLOURS),
        "opacity": {"condition": {"test": "datum.fate == 'rejected'", "value": 0.6}, "value": 1},
    }
    edge = {
        "data": {"values": _edges(nodes)},
        "mark": {"type": "line", "strokeWidth": 1.8},
        "encoding": place | look | {
            "detail": {"field": "edge"}, "order": {"field": "order"}, "strokeDash": _by_fate(DASHES),
        },
    }  # fmt: skip
    tip = [{"field": name} for name in ("id", "phase", "tokens", "lr", "weights", "outcome", "optimizer")]
    dot = {"mark": {"type": "point", "filled": True, "size": 120}, "encoding": place | look | {"tooltip": tip}}
    words = [
        {
            "mark": {"type": "text", "align": "left", "dx": 5, "dy": dy, "fontSize": size, "limit": 215, "color": tone},
            "encoding": place | {"text": {"field": field}},
        }
        for field, dy, size, tone in (("name", -23, 12, "var(--ink)"), ("note", -9, 11, "var(--muted)"))
    ]
    layers = [edge, {"data": {"values": nodes}, "layer": [dot, *words]}]
    return whole({"width": 1000, "height": 58 * (lanes + 1), "layer": layers}, 20)


def _by_fate(values: Mapping[str, object]) -> Spec:
    scale = {"domain": list(values), "range": list(values.values())}
    return {"field": "fate", "type": "nominal", "legend": None, "scale": scale}


def _edges(nodes: Sequence[Spec]) -> list[Spec]:
    """Two points an edge, parent first."""
    by_id = {node["id"]: node for node in nodes}
    edges = []
    for node in nodes:
        parent = by_id.get(node["parent"] or "")
        for end in (parent, node) if parent else ():
            edges.append({"edge": node["id"], "x": end["x"], "y": end["y"], "fate": node["fate"], "order": end is node})
    return edges


def _nodes(page: Page) -> list[Spec]:
    columns = [BASE, *(stage.name for stage in page.plan.stages)]
    parents = {manifest.parent for leg in page.legs for manifest in leg.manifests}
    lane_of = _lanes(page)
    nodes = []
    if page.base is not None and not any(leg.stage == BASE for leg in page.legs):
        nodes.append(_node(page.base, 0, 0, "kept", "given base", page.base.phase_is))
    for leg in page.legs:
        for manifest in leg.manifests:
            end = manifest is leg.manifests[-1]
            if not end and manifest.id not in parents:
                continue
            share = manifest.attempt_tokens / leg.attempt.tokens if leg.attempt else 1.0
            column = columns.index(leg.stage) + (1 if leg.cooldown else 0) - (0 if end else 1 - share)
            fate = "control" if leg.arm != COOKBOOK else leg.fate
            name = leg.progress.label if leg.stage != BASE else BASE
            outcome = leg.progress.outcome or leg.fate
            nodes.append(_node(manifest, column, lane_of[str(leg.progress.folder)], fate, name, outcome))
    return nodes


def _node(manifest: Manifest, column: float, lane: int, fate: str, name: str, outcome: str) -> Spec:
    shown = manifest.stage if manifest.stage != BASE else ""
    note = f"{format_count(manifest.line_tokens)} tokens, {outcome if fate == 'rejected' else manifest.phase}"
    if fate == "control":
        note = f"{manifest.arm}: {note}"
    return {
        "x": column, "y": lane, "id": manifest.id, "parent": manifest.parent, "fate": fate,
        "name": f"{shown} {name}".strip(), "note": note,
        "phase": manifest.phase, "tokens": f"{manifest.line_tokens:,}", "lr": manifest.lr, "outcome": outcome,
        "weights": manifest.weights_sha256[:12], "optimizer": "kept" if manifest.optimizer_state else "none",
    }  # fmt: skip


def _lanes(page: Page) -> dict[str, int]:
    """The cookbook's line is lane 0, rejected attempts hang below it, each control arm has the next lane of its own."""
    lanes: dict[str, int] = {}
    used: dict[str, int] = {}
    for leg in page.legs:
        if leg.arm == COOKBOOK:
            lane = 0
            if leg.fate != "kept" and leg.manifests:
                lane = used.get(leg.stage, 0) + 1
                used[leg.stage] = lane
            lanes[str(leg.progress.folder)] = lane
    first = max(used.values(), default=0) + 1
    for number, arm in enumerate(page.plan.control):
        lanes |= {str(leg.progress.folder): first + number for leg in page.legs if leg.arm == arm}
    return lanes
