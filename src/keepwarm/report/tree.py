"""The lineage tree as a Vega-Lite specification: the last checkpoint of every attempt, joined to where it started.

A column a stage. The cookbook's line lies on top, what was rejected and branches hang below it, each control arm has a
lane of its own. A checkpoint on the way is there when something started from it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from keepwarm.attempt.line import COOKBOOK
from keepwarm.lineage.manifest import Manifest
from keepwarm.lineage.retention import Branch
from keepwarm.report.charts import DASHES, Spec, whole
from keepwarm.report.lineage import Lineage, fate, origin, stopped_early
from keepwarm.units import format_count

COLOURS = {
    "kept": "var(--k0)", "control": "var(--ink)", "rejected": "var(--muted)", "running": "var(--k1)", "branch": "var(--k2)",
}  # fmt: skip
COLUMN_PX, LANE_PX, NAME_CHARACTERS = 200, 70, 26
CAPTION = (
    "Each attempt's last checkpoint, joined to the one it started from. Solid: kept. Dotted: rejected. Dashed: control. "
    "Hollow: its tensors were deleted."
)
BUS = 0.07  # of a column: how far left of a node the line to it turns
ASIDE = 0.3  # of a column: how far right of its stage a branch stands


def lineage(found: Lineage) -> Spec | None:
    """Checkpoints by parent: the ends of the attempts, and those in between that another attempt started from."""
    nodes = list(_nodes(found))
    if not nodes:
        return None
    left, right = min(node["x"] for node in nodes), max(node["x"] for node in nodes)
    lanes = max(node["y"] for node in nodes)
    place = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [left - 0.1, right + 0.95], "nice": False}},
        "y": {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [lanes + 0.4, -1], "nice": False}},
    }  # fmt: skip
    edge = {
        "data": {"values": list(_edges(nodes))},
        "mark": {"type": "line", "strokeWidth": 1.6, "strokeJoin": "round"},
        "encoding": place | {
            "color": _by_fate(COLOURS), "strokeDash": _by_fate(DASHES | {"branch": [1, 0]}),
            "detail": {"field": "edge"}, "order": {"field": "order"},
        },
    }  # fmt: skip
    bold = {"dx": -5, "dy": 9, "fontSize": 12, "fontWeight": "bold", "color": "var(--muted)"}
    heads = {
        "data": {"values": [{"x": x, "y": -1, "text": text} for x, text in enumerate(_heads(found)) if x <= right]},
        "mark": {"type": "text", "align": "left", **bold},
        "encoding": place | {"text": {"field": "text"}},
    }  # fmt: skip
    width, height = COLUMN_PX * (right - left + 1.05), LANE_PX * (lanes + 1.4)
    layers = [edge, heads, {"data": {"values": nodes}, "layer": [_dots(place), *_words(place)]}]
    return whole({"width": round(width), "height": round(height), "layer": layers}, 20)


def _dots(place: Spec) -> Spec:
    """Hollow where the tensors were deleted, small on the way."""
    tip = [{"field": name} for name in ("id", "phase", "tokens", "lr", "weights", "outcome", "optimizer", "deleted")]
    return {
        "mark": {"type": "point", "strokeWidth": 2, "opacity": 1},
        "encoding": place | {
            "stroke": _by_fate(COLOURS),
            "fill": {"condition": {"test": "datum.deleted", "value": "var(--paper)"}, **_by_fate(COLOURS)},
            "size": {"condition": {"test": "datum.between", "value": 45}, "value": 110},
            "tooltip": tip,
        },
    }  # fmt: skip


def _words(place: Spec) -> Iterator[Spec]:
    """Two lines of name above a node and what it is; below it, the tokens of a checkpoint on the way."""
    kinds = (("above", -37, 12, "ink"), ("name", -23, 12, "ink"), ("note", -9, 11, "muted"), ("below", 15, 11, "muted"))
    for field, dy, size, tone in kinds:
        mark = {"type": "text", "align": "left", "dx": 5, "dy": dy, "fontSize": size, "color": f"var(--{tone})"}
        yield {"mark": mark | {"limit": COLUMN_PX - 12}, "encoding": place | {"text": {"field": field}}}


def _by_fate(values: Mapping[str, object]) -> Spec:
    scale = {"domain": list(values), "range": list(values.values())}
    return {"field": "fate", "type": "nominal", "legend": None, "scale": scale}


def _heads(found: Lineage) -> list[str]:
    """What a column is: the stage with its new data; behind the last one, cooled."""
    return [*(f"{name}: {corpus}" for name, corpus in found.scope.stages), "cooled"]


def _edges(nodes: Sequence[Spec]) -> Iterator[Spec]:
    """The corners of each edge from a checkpoint to what was made of it.

    From the end of an attempt along its lane, then down just left of the child; from a checkpoint on the way straight
    down, so that the two can be told apart.
    """
    by_id = {node["id"]: node for node in nodes}
    for node in sorted(nodes, key=lambda node: node["fate"] == "kept"):  # what was kept is drawn over the rest
        for number, parent in enumerate(by_id[identity] for identity in node["parents"] if identity in by_id):
            turn = parent["x"] if parent["between"] else max(parent["x"], node["x"] - BUS)
            corners = [(parent["x"], parent["y"]), (turn, parent["y"]), (turn, node["y"]), (node["x"], node["y"])]
            for order, (x, y) in enumerate(corners):
                yield {"edge": f"{node['id']} {number}", "x": x, "y": y, "fate": node["fate"], "order": order}


def _nodes(found: Lineage) -> Iterator[Spec]:
    used = {origin(branch) for branch in found.branches}
    used |= {identity for _, manifest in found.checkpoints.values() for identity in manifest.merged_from}
    lanes = _lanes(found)
    for number, branch in enumerate(found.branches):
        before: tuple[str | None, ...] = (origin(branch),)
        for manifest in branch.checkpoints:
            end = manifest is branch.checkpoints[-1]
            if not end and manifest.id not in used:
                continue
            length = max(1, branch.checkpoints[-1].attempt_tokens)
            x = _column(found, branch) - (0.0 if end else 1 - manifest.attempt_tokens / length)
            yield _node(found, branch, manifest, x, lanes[number], manifest.merged_from or tuple(filter(None, before)))
            before = (manifest.id,)


def _column(found: Lineage, branch: Branch) -> float:
    """The base's is 0, a stage's its number; a branch off it stands aside, the last stage's cooldown in its own."""
    names = [name for name, _ in found.scope.stages]
    column = names.index(branch.stage_name) if branch.stage_name in names else len(names)
    if branch.cooldown and branch.stage is not None and column == len(names) - 1:
        return column + 1
    return column + (ASIDE if branch.cooldown or fate(branch) == "branch" else 0)


def _fate(branch: Branch) -> str:
    known = fate(branch)
    if branch.cooldown and known == "trained" and branch.stage is not None:
        return "kept"
    return {"accepted": "kept", "trained": "kept", "waiting": "running"}.get(known, known)


def _node(
    found: Lineage, branch: Branch, manifest: Manifest, x: float, lane: int, parents: Sequence[str | None]
) -> Spec:
    end, deletion = manifest is branch.checkpoints[-1], found.deleted.get(manifest.id)
    outcome = "stopped early" if stopped_early(branch) else branch.outcome
    phase = manifest.phase + (" (declared)" if manifest.phase_is == "declared" else "")
    note = f"{format_count(manifest.line_tokens)} tokens, {outcome if fate(branch) == 'rejected' else phase}"
    arm = "" if branch.arm == COOKBOOK else f"{branch.arm}: "
    name = textwrap.wrap(f"{arm}{branch.label}", NAME_CHARACTERS) if end else []
    return {
        "x": x, "y": lane, "id": manifest.id, "parents": list(parents), "fate": _fate(branch),
        "between": not end, "above": name[0] if len(name) > 1 else "", "name": " ".join(name[1:]) or "".join(name),
        "note": note if end else "", "below": "" if end else format_count(manifest.line_tokens),
        "phase": phase, "tokens": f"{manifest.line_tokens:,}",
        "lr": manifest.lr, "outcome": branch.outcome or fate(branch), "weights": manifest.weights_sha256[:12],
        "optimizer": "kept" if manifest.optimizer_state else "none", "deleted": deletion.why if deletion else "",
    }  # fmt: skip


def _lanes(found: Lineage) -> list[int]:
    """A lane for every attempt: 0 for the line and its product, the next free one of its column, a control arm's own."""
    lanes: list[int] = []
    used: dict[int, int] = {}
    for branch in found.branches:
        on_line = any(manifest.id in found.line for manifest in branch.checkpoints)
        product = branch.cooldown and branch.start in found.line[-1:] and branch.stage == len(found.scope.stages) - 2
        if on_line or product or fate(branch) == "control" or not branch.checkpoints:
            lanes.append(0)
            continue
        column = math.ceil(_column(found, branch))
        used[column] = used.get(column, 0) + 1
        lanes.append(used[column])
    first = max(lanes, default=0) + 1
    arms = [arm for arm in found.scope.control if any(branch.arm == arm for branch in found.branches)]
    return [
        first + arms.index(b.arm) if fate(b) == "control" else lane
        for b, lane in zip(found.branches, lanes, strict=True)
    ]
