"""One HTML file that explains a run: opens from disk, needs no network, and forbids itself any.

Drawings are put in as SVG when the file is written and made interactive by the Vega libraries inside it, so they are
there without JavaScript and on paper too. Everything that came from a run or a corpus is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.line import BASE, COOKBOOK
from keepwarm.attempt.retained import scope_of
from keepwarm.errors import KeepwarmError
from keepwarm.plan.model import Plan
from keepwarm.report import charts, drawing, provenance, recovery_chart, tree
from keepwarm.report.accounted import account_note
from keepwarm.report.decisions import stage_decisions
from keepwarm.report.lineage import lineage_of
from keepwarm.report.markup import escaped, table
from keepwarm.report.page import Leg, MatrixRow, Page, gather, matrix
from keepwarm.report.words import verdicts
from keepwarm.units import format_count

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data:"
LABEL_ROOM_PX = 50
FULL_COLOUR_NATS = 1.0  # forgetting from here on has the darkest cell
EMBED = """
function widen(spec, width) { if ("width" in spec) spec.width = width; (spec.vconcat || []).forEach(s => widen(s, width)); }
for (const box of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
  widen(spec, Math.max(+box.dataset.least, box.clientWidth - spec.usermeta.outside));
  const place = box.firstElementChild;
  vegaEmbed(place, spec, {renderer: "svg", actions: false, tooltip: {theme: "custom"}})
    .catch(error => { place.textContent = "drawing failed: " + error; console.error(error); });
}
"""


def write_report(plan: Plan, output: Path | None = None) -> Path:
    """Write the report of a run (default RUN/report.html, replacing the last one) and return its path.

    Works at any point of a run and says what is missing. Raises KeepwarmError without vl-convert, or if the run folder
    does not exist.
    """
    engine = drawing.engine()
    folder = Path(plan.run.folder)
    if not folder.is_dir():
        raise KeepwarmError(f"{folder}: no such run folder", "there is nothing to report on yet", "keepwarm run PLAN")
    path = Path(output) if output is not None else folder / "report.html"
    files.write_text(path, _document(gather(plan), engine), replace=True)
    return path


def print_report(plan: Plan) -> None:
    """Write the report where a run ends, and say where it is; a missing drawing library is no reason to fail a run."""
    try:
        path, here = write_report(plan), Path.cwd()
        print(f"report: {path.relative_to(here) if path.is_relative_to(here) else path}")
    except KeepwarmError as error:
        print(f"report: none ({error.what}; {error.fix})")


def write_picture(plan: Plan, output: Path) -> Path:
    """The report's timeline alone, as an SVG file. KeepwarmError while there is nothing to draw."""
    engine = drawing.engine()
    spec = charts.timeline(gather(plan))
    if spec is None:
        raise KeepwarmError(
            f"{plan.run.folder}: nothing was measured yet", "there is no picture to draw", "keepwarm run PLAN"
        )
    picture = drawing.renumbered(engine.vegalite_to_svg(spec), "timeline")
    # Room for labels at line ends: the reader's font may be wider than the one the engine measured them with.
    picture = re.sub(
        r'(width="|viewBox="0 0 )([0-9]+)', lambda m: f"{m[1]}{int(m[2]) + LABEL_ROOM_PX}", picture, count=2
    )
    colours = drawing.style().partition("* {")[0]  # of both colour schemes, which an image must bring along
    place = picture.index(">") + 1
    styled = f"{picture[:place]}<style>{colours}svg {{ background: var(--paper); }}</style>{picture[place:]}"
    files.write_text(output, styled, replace=True)
    return output


def _document(page: Page, engine: Any) -> str:
    css = drawing.style()
    sections = {
        "verdicts": ("What was kept, and why", _verdicts(page)),
        "timeline": ("Timeline", _timeline(page, engine)),
        "evidence": ("What the verdicts rest on", _evidence(page, engine)),
        "forgetting": ("What was forgotten", _matrices(page)),
        "lineage": ("Lineage", _lineage(page, engine)),
        "ladder": ("The ladder and its cost", _ladder(page)),
        "fed": ("Asked and fed", provenance.fed(page)),
        "buffer": ("What buffer B holds", provenance.buffer(page)),
        "reproduce": ("To reproduce it", provenance.reproduce(page)),
    }
    links = "".join(f'<a href="#{key}">{escaped(title)}</a>' for key, (title, _) in sections.items())
    body = "".join(
        f'<section id="{key}"><h2>{escaped(title)}</h2>{content}</section>'
        for key, (title, content) in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(page.plan.name)}: keepwarm report</title><style>{css}</style></head><body>"
        f"<header><h1>{escaped(page.plan.name)}</h1>{_summary(page)}<nav>{links}</nav></header><main>{body}</main>"
        f"<script>{engine.javascript_bundle()}</script><script>{EMBED}</script></body></html>\n"
    )


def _summary(page: Page) -> str:
    states = [stage["state"] for stage in page.found["stages"]]
    fed = sum(leg.tokens for leg in page.legs)
    words = (
        f"{states.count('accepted')} of {len(states)} stages accepted; {format_count(fed)} tokens trained in all arms"
    )
    missing = "".join(f"<li>{escaped(each)}</li>" for each in page.missing)
    listed = f'<p class="muted">Not in this report:</p><ul class="muted" id="missing">{missing}</ul>' if missing else ""
    following = page.found["next"]
    what = following["do"] + (f" ({following['stage']})" if following["stage"] else "")
    return f"<p>{escaped(words)}. Next: {escaped(what)}.</p>{listed}"


def _verdicts(page: Page) -> str:
    parts = []
    for verdict in verdicts(page):
        lines = "".join(f"<p>{escaped(sentence)}</p>" for sentence in verdict.sentences)
        head = f'<h3>{escaped(verdict.title)} <span class="badge">{escaped(verdict.state)}</span></h3>'
        parts.append(f'<div class="verdict {escaped(verdict.state)}">{head}{lines}</div>')
    return "".join(parts)


def _drawing(name: str, spec: charts.Spec, engine: Any, caption: str, least_px: int) -> str:
    picture = drawing.renumbered(engine.vegalite_to_svg(spec), name)
    told = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    content = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure><div class="chart" data-spec="{name}-spec" data-least="{least_px}" tabindex="0" role="group" '
        f'aria-label="{name}: its numbers are in the tables below"><div>{picture}</div></div>'
        f'<script type="application/json" id="{name}-spec">{content}</script>{told}</figure>'
    )


def _timeline(page: Page, engine: Any) -> str:
    spec = charts.timeline(page)
    if spec is None:
        return "<p>Nothing has been trained yet.</p>"
    caption = (
        "Solid: the line that was kept. Dashed: control arms. Dotted: rejected attempts. Thin: a corpus before the stage "
        "that teaches it. Losses are not smoothed. Between an attempt's ends they are measured on a fixed subset of the "
        "held-out windows and corrected by its difference to all windows, known at both ends and linear in between. Losses "
        "higher than any after a corpus was taught are cut off. Old data: D_0 and replayed data, as asked."
    )
    return _drawing("timeline", spec, engine, caption, 640)


def _lineage(page: Page, engine: Any) -> str:
    spec = tree.lineage(lineage_of(scope_of(page.plan)))
    if spec is None:
        return "<p>There is no checkpoint yet.</p>"
    return _drawing("lineage", spec, engine, tree.CAPTION, 170 * (len(page.plan.stages) + 2))


def _evidence(page: Page, engine: Any) -> str:
    """Each stage's forgetting since the data switched, with tolerances and forecasts."""
    drawn = []
    for number, stage in enumerate(page.found["stages"], start=1):
        spec = recovery_chart.recovery(page, stage["name"])
        if spec is not None:
            picture = _drawing(f"evidence-{number}", spec, engine, "", 560)
            decided = escaped("\n".join(stage_decisions(stage)))
            words = f"<details><summary>Every decision, in words</summary><pre>{decided}</pre></details>"
            drawn.append(f"<h3>{escaped(stage['name'])}: {escaped(stage['new'])}</h3>{picture}{words}")
    if not drawn:
        return "<p>No attempt was measured yet after its new data came in.</p>"
    return "".join(drawn) + f'<p class="muted">{escaped(recovery_chart.CAPTION)}</p>'


def _matrices(page: Page) -> str:
    arms = [(arm, matrix(page, arm)) for arm in (COOKBOOK, *page.plan.control)]
    if not arms[0][1]:
        return "<p>There is no finished base to compare with yet.</p>"
    drawn = "".join(
        f"<div><h3>{escaped(arm)}</h3>{_matrix(page, rows)}</div>"
        for arm, rows in arms
        if len(rows) > 1 or arm == COOKBOOK
    )
    return (
        f'<div class="arms">{drawn}</div><p class="muted">Nats per token: change of the held-out loss since the stage that '
        "taught the corpus (orange: forgotten, blue: improved since), under it the loss. Framed: the loss when it was "
        "taught. Grey: not taught yet. After the cooldown only losses: a cooled model is not compared with one at peak.</p>"
    )


def _matrix(page: Page, rows: Sequence[MatrixRow]) -> str:
    corpora = [name for name in page.corpora if name in rows[0].loss]
    head = "<th>after</th>" + "".join(f"<th>{escaped(page.plan.called(name))}</th>" for name in corpora)
    body = "".join(
        f"<tr><th>{escaped(row.after)}</th>{''.join(_cell(row, name) for name in corpora)}</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table class="matrix"><tr>{head}</tr>{body}</table></div>'


def _cell(row: MatrixRow, corpus: str) -> str:
    loss, change = row.loss.get(corpus), row.change.get(corpus)
    if loss is None:
        return '<td class="unseen"></td>'
    if change is None or row.taught is None:
        return f'<td class="unseen">{loss:.2f}</td>'
    if corpus == row.taught or row.after == BASE:
        return f'<td class="own">{loss:.2f}</td>'
    strength = round(min(0.55, 0.08 + 0.47 * abs(change) / FULL_COLOUR_NATS), 3) if abs(change) >= 0.005 else 0
    tone = "warm" if change > 0 else "cool"
    return f'<td style="background:rgb(var(--{tone}) / {strength})">{change:+.2f}<small>{loss:.2f}</small></td>'


def _ladder(page: Page) -> str:
    rows = []
    for leg in page.legs:
        verdict = leg.progress.verdict or {}
        reasons = verdict.get("reasons", []) or ["not trained"] * (leg.fate == "skipped")
        ours = leg.arm == COOKBOOK
        tone = {"kept": "good", "rejected": "alarm"}.get(leg.fate, "muted") if ours else "muted"
        fate = leg.fate if ours else "control"
        outcome = f'<span class="{tone}">{escaped(fate)}</span> {escaped(leg.progress.outcome or "")}'
        notes = [*reasons, *verdict.get("warnings", [])]
        cells = [
            escaped(leg.arm), escaped(leg.stage), escaped(leg.progress.label), outcome, f"{leg.tokens:,}", _rates(leg),
            "<br>".join(escaped(each) for each in notes),
        ]  # fmt: skip
        rows.append((leg.fate, cells))
    heads = ("arm", "stage", "candidate", "outcome", "tokens", "LR start → end", "reasons")
    return _account(page.found["account"]) + table(heads, rows, numeric=(4,))


def _account(found: dict[str, Any]) -> str:
    """What every token was spent on."""
    whole = found["compute_tokens"] or 1
    rows = []
    for row in [*found["rows"], {"what": "in all", **found["total"]}]:
        counts = (row["attempts"], row["tokens"], row["shared_tokens"], row["evaluation_tokens"])
        cells = [escaped(row["what"]), *(f"{count:,}" for count in counts), f"{row['compute_tokens'] / whole:.1%}"]
        rows.append(("", cells))
    heads = ("spent on", "attempts", "tokens trained", "not trained again", "tokens measured", "share of compute")
    note = f'<p class="muted">{escaped(account_note(found))}.</p>'
    return table(heads, rows, numeric=(1, 2, 3, 4, 5)) + note


def _rates(leg: Leg) -> str:
    if leg.attempt is None:
        return ""
    return f"{float(leg.attempt.schedule.lr(0)):g} → {float(leg.attempt.schedule.lr(leg.attempt.tokens)):g}"
