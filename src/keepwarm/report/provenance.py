"""The report's last sections: what was asked and fed, what B holds, and what reproduces the run."""

from __future__ import annotations

from collections.abc import Iterator

from keepwarm import __version__
from keepwarm.attempt.line import BASE
from keepwarm.report.charts import COLOURS
from keepwarm.report.markup import escaped, table
from keepwarm.report.page import Page, fed_rows
from keepwarm.units import format_share


def fed(page: Page) -> str:
    """Asked against fed, by attempt and source."""
    rows = []
    for leg in page.legs:
        found = fed_rows(page, leg)
        total = sum(row.fed_tokens for row in found)
        for number, row in enumerate(found):
            first = number == 0
            epochs = "{:.3f} → {:.3f}".format(*row.epochs) if row.epochs else ""
            cells = [
                *(escaped(each) if first else "" for each in (leg.arm, leg.stage, leg.progress.label)),
                escaped(row.source), escaped(row.role), f"{row.asked_tokens:,.0f}", f"{row.fed_tokens:,}",
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
    return note + table(heads, rows, numeric=(5, 6, 7, 8, 9, 10))


def buffer(page: Page) -> str:
    """The newest version of B: what it holds, and some of its text."""
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
        colour = page.corpora.index(entry.corpus) % COLOURS if entry.corpus in page.corpora else 0
        bar.append(
            f'<span style="width:{share:.4%};background:var(--k{colour})" title="{escaped(entry.corpus)} {share:.1%}"></span>'
        )
        origins = ", ".join(origin.name for origin in entry.sources)
        rows.append(("", [
            escaped(entry.stage), f'<span style="color:var(--t{colour})">{escaped(entry.corpus)}</span>', f"{entry.documents:,}",
            f"{entry.tokens:,}", f"{share:.1%}", f"{entry.stage_tokens:,}", escaped(origins),
        ]))  # fmt: skip
        texts += [f"<h3>{escaped(entry.corpus)}</h3>"] * bool(page.samples.get(entry.stage))
        texts += [f'<pre class="sample">{escaped(text)}</pre>' for text in page.samples.get(entry.stage, ())]
    heads = ("stage", "corpus", "documents", "tokens", "share of B", "tokens the stage fed of it", "sources")
    return (
        f'<p>{words}</p><div class="bar">{"".join(bar)}</div>'
        + table(heads, rows, numeric=(2, 3, 4, 5))
        + "".join(texts)
    )


def reproduce(page: Page) -> str:
    """The commands, hashes and versions, and the plan."""
    commands = [
        f'pip install "keepwarm[train,report]=={__version__}"',
        "keepwarm run plan.yaml",
        "keepwarm report plan.yaml",
    ]
    facts = table(
        ("what", "value"), [("", [escaped(name), f"<code>{escaped(value)}</code>"]) for name, value in _facts(page)]
    )
    plan = (
        f"<h3>plan.yaml</h3><pre>{escaped(page.plan_text)}</pre>"
        if page.plan_text
        else "<p>The plan's text is not in the run folder yet.</p>"
    )
    return f"<pre>{escaped(chr(10).join(commands))}</pre>{facts}{plan}"


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
