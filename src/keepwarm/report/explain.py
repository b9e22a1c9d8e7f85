"""`keepwarm explain NAME`: what a schedule, rung, guard, verdict, trouble, shift or a word of `stability` is, its
formula, when to use it, its source.

Generated from the code's own docstrings, so that the text can't drift from what is done: paragraphs that begin with
`Formula:`, `When:` and `Source:`, and before them what it is.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from keepwarm.attempt import stability
from keepwarm.errors import KeepwarmError
from keepwarm.lineage import guard
from keepwarm.plan import rungs
from keepwarm.plan.cookbook import load_cookbook, shipped
from keepwarm.report.terminal import console
from keepwarm.schedule.curves import SHAPES
from keepwarm.schedule.schedule import BUILDERS
from keepwarm.strategy import shift, trouble
from keepwarm.strategy.verdict import OUTCOMES

KINDS = {
    "schedule": "Schedules", "shape": "Shapes of a fall", "rung": "Rungs", "guard": "Guards", "verdict": "Verdicts",
    "trouble": "Troubles", "stability": "Unstable training", "shift": "Shifts", "cookbook": "Cookbooks",
}  # fmt: skip
_PARTS = ("formula", "when", "source")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that has a name. `more` are lines of its own kind: settings, ladders, how to override it."""

    name: str
    kind: str
    what: str
    formula: str
    when: str
    source: str
    more: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What it is in a sentence."""
        first, stop, _ = " ".join(self.what.split()).partition(". ")
        return first + stop.strip()


def entries() -> list[Entry]:
    """Everything that can be explained, by kind."""
    return [*_schedules(), *_rungs(), *_guards(), *_verdicts(), *_troubles(), *_stability(), *_shifts(), *_cookbooks()]


def explain(name: str) -> list[Entry]:
    """What is known under a name, however it is spaced and cased; KeepwarmError with a guess for one that is not known."""
    wanted, known = "-".join(name.lower().replace("_", " ").split()), entries()
    found = [entry for entry in known if entry.name == wanted]
    if found:
        return found
    close = get_close_matches(wanted, [entry.name for entry in known], 1)
    fix = f"keepwarm explain {close[0]}" if close else "keepwarm explain (lists every name)"
    raise KeepwarmError(f"{name!r} is not a name that can be explained", "nothing is known under it", fix)


def parse(name: str, kind: str, text: str, more: tuple[str, ...] = ()) -> Entry:
    """A docstring as an entry: paragraphs by the word they begin with; the first ones say what it is."""
    found: dict[str, list[str]] = {part: [] for part in ("what", *_PARTS)}
    here = "what"
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        label, colon, rest = paragraph.partition(":")
        if colon and label.lower() in _PARTS:
            here, paragraph = label.lower(), rest
        if not paragraph.startswith("Raises "):  # that is for who calls it
            found[here].append(" ".join(paragraph.split()))
    what, formula, when, source = ("\n\n".join(found[part]) for part in ("what", *_PARTS))
    return Entry(name, kind, what, formula, when, source, more)


def print_entries(found: Sequence[Entry], *, full: bool) -> None:
    """Entries for people: each in full, or a line each under its kind."""
    out = console()
    if full:
        for number, entry in enumerate(found):
            out.print("\n" * bool(number) + "\n".join(_lines(entry)), markup=False)
        return
    for kind, title in KINDS.items():
        of_kind = [entry for entry in found if entry.kind == kind]
        width = max(len(entry.name) for entry in of_kind)
        rows = (
            textwrap.fill(
                e.line, out.width, initial_indent=f"  {e.name:<{width}}  ", subsequent_indent=" " * (width + 4)
            )
            for e in of_kind
        )
        out.print("\n".join([title, *rows, ""]), markup=False)


def _lines(entry: Entry) -> Iterator[str]:
    yield f"{entry.name} ({entry.kind})"
    for label, text in (
        ("", entry.what),
        ("Formula: ", entry.formula),
        ("When: ", entry.when),
        ("Source: ", entry.source),
    ):
        if text:
            yield from ("", label + text)
    if entry.more:
        yield from ("", *entry.more)


def markdown() -> str:
    """The page docs/explain.md."""
    parts = [
        "# What has a name",
        "Every schedule, rung, guard, verdict, trouble, shift and cookbook, and what is done when training is unstable: what "
        "it is, its formula, when to use it (of a refusal or a verdict: what to do next), and where it comes from. "
        "`keepwarm explain NAME` shows the same. This page is the output of `keepwarm explain --markdown`.",
    ]
    known = entries()
    for kind, title in KINDS.items():
        parts.append(f"## {title}")
        for entry in (entry for entry in known if entry.kind == kind):
            parts += [f"### {entry.name}", entry.what]
            parts += [_fenced(entry.formula)] if entry.formula else []
            parts += [f"**When:** {entry.when}", f"**Source:** {entry.source}"]
            parts += [_fenced("\n".join(entry.more))] if entry.more else []
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def as_json(found: list[Entry]) -> list[dict[str, Any]]:
    """Entries for a script."""
    return [asdict(entry) | {"more": list(entry.more)} for entry in found]


def _schedules() -> Iterator[Entry]:
    yield from (parse(name, "schedule", inspect.getdoc(build) or "") for name, build in BUILDERS.items())
    yield from (parse(name, "shape", inspect.getdoc(curve) or "") for name, curve in SHAPES.items())


def _rungs() -> Iterator[Entry]:
    for rung in rungs.ALL:
        name = rungs.name_of(rung)
        settings = {key: field for key, field in rung.model_fields.items() if key != "rung"}
        defaults = rung(rung=name).model_dump(mode="json")
        rows = [f"  {key}: {field.description} (default {defaults[key]})" for key, field in settings.items()]
        yield parse(name, "rung", inspect.getdoc(rung) or "", ("Settings in a ladder:", *rows) if rows else ())


def _guards() -> Iterator[Entry]:
    for name, (summary, functions) in guard.BY_NAME.items():
        found = [parse(name, "guard", inspect.getdoc(function) or "") for function in functions]
        what = f"{summary}\n\n{_numbered([each.what for each in found])}" if len(found) > 1 else found[0].what
        formula, when, source = (_numbered([getattr(each, part) for each in found]) for part in _PARTS)
        override = () if name == "append-only" else (f"To override it: keepwarm run PLAN --allow {name}",)
        yield Entry(name, "guard", what, formula, when, source, override)


def _numbered(texts: Sequence[str]) -> str:
    """One text, or several by number; those that are missing are left out."""
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"({number}) {text}" for number, text in enumerate(texts, start=1) if text)


def _verdicts() -> Iterator[Entry]:
    yield from (parse(name, "verdict", text) for name, text in OUTCOMES.items())


def _troubles() -> Iterator[Entry]:
    yield from (parse(name, "trouble", text) for name, text in trouble.explained().items())


def _stability() -> Iterator[Entry]:
    yield from (parse(name, "stability", text) for name, text in stability.EXPLAINED.items())


def _shifts() -> Iterator[Entry]:
    yield from (parse(name, "shift", text) for name, text in shift.explained().items())


def _cookbooks() -> Iterator[Entry]:
    kinds = (("weak", "a weak shift"), ("strong", "a strong shift"), ("last", "the last stage of several"))
    for name in shipped():
        cookbook, ladders = load_cookbook(name), list[str]()
        for kind, what in kinds:
            tried = [each.label for rung in getattr(cookbook, kind) for each in rungs.candidates(rung)]
            ladders += ["", f"For {what}:", *(f"  {number + 1:>2}. {label}" for number, label in enumerate(tried))]
        yield parse(name, "cookbook", cookbook.about, tuple(ladders[1:]))
