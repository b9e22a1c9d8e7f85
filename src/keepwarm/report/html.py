"""One HTML file that explains a run: opens from disk, needs no network, and forbids itself any.

Drawings are put in as SVG when the file is written and made interactive by the Vega libraries inside it, so they are
there without JavaScript and on paper too. Everything that came from a run or a corpus is escaped.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keepwarm import __version__, files
from keepwarm.attempt.line import BASE, COOKBOOK
from keepwarm.attempt.retained import scope_of
from keepwarm.errors import KeepwarmError
from keepwarm.plan.model import Plan
from keepwarm.report import charts, drawing, tree
from keepwarm.report.lineage import lineage_of
from keepwarm.report.page import Leg, MatrixRow, Page, fed_rows, gather, matrix
from keepwarm.report.words import verdicts
from keepwarm.units import format_count, format_share

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
        "forgetting": ("What was forgotten", _matrices(page)),
        "lineage": ("Lineage", _lineage(page, engine)),
        "ladder": ("The ladder and its cost", _ladder(page)),
        "fed": ("Asked and fed", _fed(page)),
        "buffer": ("What buffer B holds", _buffer(page)),
        "reproduce": ("To reproduce it", _reproduce(page)),
    }
    links = "".join(f'<a href="#{key}">{_e(title)}</a>' for key, (title, _) in sections.items())
    body = "".join(
        f'<section id="{key}"><h2>{_e(title)}</h2>{content}</section>' for key, (title, content) in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(page.plan.name)}: keepwarm report</title><style>{css}</style></head><body>"
        f"<header><h1>{_e(page.plan.name)}</h1>{_summary(page)}<nav>{links}</nav></header><main>{body}</main>"
        f"<script>{engine.javascript_bundle()}</script><script>{EMBED}</script></body></html>\n"
    )


def _e(text: object) -> str:
    return html.escape(str(text))


def _table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numeric: Sequence[int] = ()) -> str:
    """A table in its own scrolling box. A row is (class, cells); cells are HTML already."""

    def cell(tag: str, number: int, content: str) -> str:
        return f"<{tag}{' class=n' if number in numeric else ''}>{content}</{tag}>"

    head = "".join(cell("th", number, _e(text)) for number, text in enumerate(heads))
    body = "".join(
        f'<tr class="{kind}">' + "".join(cell("td", number, text) for number, text in enumerate(cells)) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _summary(page: Page) -> str:
    states = [stage["state"] for stage in page.found["stages"]]
    fed = sum(leg.tokens for leg in page.legs)
    words = (
        f"{states.count('accepted')} of {len(states)} stages accepted; {format_count(fed)} tokens trained in all arms"
    )
    missing = "".join(f"<li>{_e(each)}</li>" for each in page.missing)
    listed = f'<p class="muted">Not in this report:</p><ul class="muted" id="missing">{missing}</ul>' if missing else ""
    following = page.found["next"]
    what = following["do"] + (f" ({following['stage']})" if following["stage"] else "")
    return f"<p>{_e(words)}. Next: {_e(what)}.</p>{listed}"


def _verdicts(page: Page) -> str:
    parts = []
    for verdict in verdicts(page):
        lines = "".join(f"<p>{_e(sentence)}</p>" for sentence in verdict.sentences)
        head = f'<h3>{_e(verdict.title)} <span class="badge">{_e(verdict.state)}</span></h3>'
        parts.append(f'<div class="verdict {_e(verdict.state)}">{head}{lines}</div>')
    return "".join(parts)


def _drawing(name: str, spec: charts.Spec, engine: Any, caption: str, least_px: int) -> str:
    picture = drawing.renumbered(engine.vegalite_to_svg(spec), name)
    content = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure><div class="chart" data-spec="{name}-spec" data-least="{least_px}" tabindex="0" role="group" '
        f'aria-label="{name}: its numbers are in the tables below"><div>{picture}</div></div>'
        f'<script type="application/json" id="{name}-spec">{content}</script><figcaption>{_e(caption)}</figcaption></figure>'
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


def _matrices(page: Page) -> str:
    arms = [(arm, matrix(page, arm)) for arm in (COOKBOOK, *page.plan.control)]
    if not arms[0][1]:
        return "<p>There is no finished base to compare with yet.</p>"
    drawn = "".join(
        f"<div><h3>{_e(arm)}</h3>{_matrix(page, rows)}</div>" for arm, rows in arms if len(rows) > 1 or arm == COOKBOOK
    )
    return (
        f'<div class="arms">{drawn}</div><p class="muted">Nats per token: change of the held-out loss since the stage that '
        "taught the corpus (orange: forgotten, blue: improved since), under it the loss. Framed: the loss when it was "
        "taught. Grey: not taught yet. After the cooldown only losses: a cooled model is not compared with one at peak.</p>"
    )


def _matrix(page: Page, rows: Sequence[MatrixRow]) -> str:
    corpora = [name for name in page.corpora if name in rows[0].loss]
    head = "<th>after</th>" + "".join(f"<th>{_e(name)}</th>" for name in corpora)
    body = "".join(f"<tr><th>{_e(row.after)}</th>{''.join(_cell(row, name) for name in corpora)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table class="matrix"><tr>{head}</tr>{body}</table></div>'


def _cell(row: MatrixRow, corpus: str) -> str:
    loss, change = row.loss.get(corpus), row.change.get(corpus)
    if loss is None:
        return '<td class="unseen"></td>'
    if change is None or row.taught is None:
        return f'<td class="unseen">{loss:.2f}</td>'
    if row.taught == corpus:
        return f'<td class="own">{loss:.2f}</td>'
    strength = round(min(0.55, 0.08 + 0.47 * abs(change) / FULL_COLOUR_NATS), 3) if abs(change) >= 0.005 else 0
    tone = "warm" if change > 0 else "cool"
    return f'<td style="background:rgb(var(--{tone}) / {strength})">{change:+.2f}<small>{loss:.2f}</small></td>'


def _ladder(page: Page) -> str:
    rows = []
    for leg in page.legs:
        verdict = leg.progress.verdict or {}
        reasons = verdict.get("reasons", []) or ["not trained"] * (leg.fate == "skipped")
        tone = {"kept": "good", "rejected": "alarm"}.get(leg.fate, "muted")
        fate = leg.fate if leg.arm == COOKBOOK else "control"
        outcome = f'<span class="{tone if leg.arm == COOKBOOK else "muted"}">{_e(fate)}</span> {_e(leg.progress.outcome or "")}'
        notes = [*reasons, *verdict.get("warnings", [])]
        cells = [
            _e(leg.arm), _e(leg.stage), _e(leg.progress.label), outcome, f"{leg.tokens:,}", _rates(leg),
            "<br>".join(_e(each) for each in notes),
        ]  # fmt: skip
        rows.append((leg.fate, cells))
    total = sum(leg.tokens for leg in page.legs)
    spent = {
        kind: sum(leg.tokens for leg in page.legs if _purpose(leg) == kind) for kind in ("kept", "rejected", "control")
    }
    words = ", ".join(
        f"{format_count(tokens)} {kind} ({tokens / max(1, total):.0%})" for kind, tokens in spent.items() if tokens
    )
    heads = ("arm", "stage", "candidate", "outcome", "tokens", "LR start → end", "reasons")
    return f"<p>{format_count(total)} tokens: {_e(words)}.</p>" + _table(heads, rows, numeric=(4,))


def _purpose(leg: Leg) -> str:
    return "control" if leg.arm != COOKBOOK else "rejected" if leg.fate == "rejected" else "kept"


def _rates(leg: Leg) -> str:
    if leg.attempt is None:
        return ""
    return f"{float(leg.attempt.schedule.lr(0)):g} → {float(leg.attempt.schedule.lr(leg.attempt.tokens)):g}"


def _fed(page: Page) -> str:
    rows = []
    for leg in page.legs:
        found = fed_rows(page, leg)
        total = sum(row.fed_tokens for row in found)
        for number, row in enumerate(found):
            first = number == 0
            epochs = "{:.3f} → {:.3f}".format(*row.epochs) if row.epochs else ""
            cells = [
                _e(leg.arm if first else ""), _e(leg.stage if first else ""), _e(leg.progress.label if first else ""),
                _e(row.source), _e(row.role), f"{row.asked_tokens:,.0f}", f"{row.fed_tokens:,}",
                f"{row.fed_tokens - row.asked_tokens:+,.0f}", format_share(row.fed_tokens / max(1, total)),
                "" if row.repeated_tokens is None else f"{row.repeated_tokens:,}", epochs,
            ]  # fmt: skip
            rows.append((leg.fate, cells))
    if not rows:
        return "<p>Nothing has been fed yet.</p>"
    note = (
        f'<p class="muted">Tokens. Epochs count the whole line, before and after the attempt; the plan allows at most '
        f"{float(page.plan.max_epochs):g}. They are not recorded for the base, cooldown branches and unfinished attempts.</p>"
    )
    heads = (
        "arm",
        "stage",
        "candidate",
        "source",
        "role",
        "asked",
        "fed",
        "difference",
        "share fed",
        "repeated",
        "epochs",
    )
    return note + _table(heads, rows, numeric=(5, 6, 7, 8, 9, 10))


def _buffer(page: Page) -> str:
    version = page.buffer
    if version is None:
        why = (
            "The plan keeps no buffer."
            if not page.plan.buffer.tokens
            else "It is filled after the first accepted stage."
        )
        return f"<p>There is no buffer. {why}</p>"
    words = (
        f"Version {version.version}: {version.tokens:,} of {version.budget_tokens:,} tokens, policy {version.policy}. It "
        "never holds D_0, and the data of a stage only after that stage was accepted."
    )
    rows, bar, texts = [], [], []
    for entry in version.entries:
        share = entry.tokens / max(1, version.tokens)
        colour = page.corpora.index(entry.corpus) % charts.COLOURS if entry.corpus in page.corpora else 0
        bar.append(
            f'<span style="width:{share:.4%};background:var(--k{colour})" title="{_e(entry.corpus)} {share:.1%}"></span>'
        )
        origins = ", ".join(origin.name for origin in entry.sources)
        rows.append(("", [
            _e(entry.stage), f'<span style="color:var(--t{colour})">{_e(entry.corpus)}</span>', f"{entry.documents:,}",
            f"{entry.tokens:,}", f"{share:.1%}", f"{entry.stage_tokens:,}", _e(origins),
        ]))  # fmt: skip
        texts += [f"<h3>{_e(entry.corpus)}</h3>"] * bool(page.samples.get(entry.stage))
        texts += [f'<pre class="sample">{_e(text)}</pre>' for text in page.samples.get(entry.stage, ())]
    heads = ("stage", "corpus", "documents", "tokens", "share of B", "tokens the stage fed of it", "sources")
    return (
        f'<p>{words}</p><div class="bar">{"".join(bar)}</div>'
        + _table(heads, rows, numeric=(2, 3, 4, 5))
        + "".join(texts)
    )


def _reproduce(page: Page) -> str:
    commands = [
        f'pip install "keepwarm[train,report]=={__version__}"',
        "keepwarm run plan.yaml",
        "keepwarm report plan.yaml",
    ]
    facts = _table(("what", "value"), [("", [_e(name), f"<code>{_e(value)}</code>"]) for name, value in _facts(page)])
    plan = (
        f"<h3>plan.yaml</h3><pre>{_e(page.plan_text)}</pre>"
        if page.plan_text
        else "<p>The plan's text is not in the run folder yet.</p>"
    )
    return f"<pre>{_e(chr(10).join(commands))}</pre>{facts}{plan}"


def _facts(page: Page) -> Iterator[tuple[str, str]]:
    resolved = page.resolved
    yield "plan, SHA-256", resolved.get("plan", "not recorded yet")
    yield "tokenizer, SHA-256", resolved.get("tokenizer_sha256", "not recorded yet")
    if resolved:
        yield "vocabulary", f"{resolved['vocab_size']:,}"
    yield "seed", str(page.plan.seed)
    manifests = [manifest for leg in page.legs for manifest in leg.manifests]
    for name, value in sorted({pair for manifest in manifests for pair in manifest.versions.items()}):
        yield f"{name}, version", value
    for label, values in (
        ("threads", {str(manifest.threads) for manifest in manifests}),
        ("precision", {manifest.precision for manifest in manifests}),
        ("architecture, SHA-256", {manifest.architecture_sha256 for manifest in manifests}),
    ):
        if values:
            yield label, ", ".join(sorted(values))
    for leg in page.legs:
        if leg.fate == "kept" and leg.manifests:
            where = BASE if leg.stage == BASE else f"{leg.stage} {leg.progress.label}"
            yield f"weights after {where} ({leg.arm}), SHA-256", leg.manifests[-1].weights_sha256
