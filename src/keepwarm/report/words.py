"""The report's verdicts in sentences: what was tried, why it was rejected or kept, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keepwarm.attempt.line import BASE, COOKBOOK
from keepwarm.plan.corpus import called
from keepwarm.report.account import NOT_NEEDED
from keepwarm.report.decisions import shift_lines
from keepwarm.report.page import Leg, Page, d0_words, matrix
from keepwarm.units import format_count


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stage's title, its state, and what happened, in sentences."""

    title: str
    state: str
    sentences: tuple[str, ...]


def verdicts(page: Page) -> list[Verdict]:
    """One for the base, each stage, and the control arms that have come to an end."""
    found = [Verdict(f"base: {d0_words(page)}", page.found["base"]["state"], (_base(page),))]
    for number, (stage, state) in enumerate(zip(page.plan.stages, page.found["stages"], strict=True), start=1):
        title = f"{stage.name}: {stage.new} (D_{number})"
        shift = (f"{line[0].upper()}{line[1:]}." for line in shift_lines(state["shift"]))
        found.append(Verdict(title, state["state"], (*shift, *_stage(page, state))))
    compared = tuple(sentence for arm in page.plan.control for sentence in _control(page, arm))
    if compared:
        found.append(Verdict("against the control", "measured", compared))
    return found


def _base(page: Page) -> str:
    if page.base is None:
        return "The base is not finished: nothing is taught on top of it yet."
    corpus, evaluation = page.plan.base.corpus, page.base.evaluation
    loss = (
        f", held-out loss of {page.plan.called(corpus)} {evaluation[corpus]['loss']:.3f} nats"
        if corpus in evaluation
        else ""
    )
    if not any(leg.stage == BASE for leg in page.legs):
        return f"Given, not trained here; {page.base.phase} ({page.base.phase_is}){loss}."
    return f"Trained on {format_count(page.base.line_tokens)} tokens; {page.base.phase}{loss}."


def _stage(page: Page, found: Mapping[str, Any]) -> Iterator[str]:
    name, state = found["name"], found["state"]
    tried = [leg for leg in page.legs if leg.arm == COOKBOOK and leg.stage == name and not leg.cooldown]
    if not tried:
        yield "Not begun."
        return
    steered = {attempt["folder"]: attempt["steered"] for attempt in found["attempts"] if "steered" in attempt}
    for leg in tried:
        yield _attempt(leg)
        if str(leg.progress.folder) in steered:
            yield f"Its mix was steered: {steered[str(leg.progress.folder)]}."
    trained = [leg for leg in tried if leg.fate != "skipped"]
    lost = sum(leg.tokens for leg in trained if leg.fate == "rejected")
    if state == "exhausted":
        yield f"No candidate was accepted: the ladder is exhausted. It cost {format_count(lost)} tokens."
    elif lost:
        total = sum(leg.tokens for leg in trained)
        yield f"The stage cost {format_count(total)} tokens, {format_count(lost)} of them on rejected attempts."
    for leg in page.legs:
        if leg.arm == COOKBOOK and leg.stage == name and leg.cooldown:
            yield f"A cooldown branch of {format_count(leg.tokens)} tokens {_how_far(leg)}; the line itself stays as it was."


def _how_far(leg: Leg) -> str:
    if leg.fate == "kept":
        return f"ended {leg.manifests[-1].phase}"
    return "is running"


def _attempt(leg: Leg) -> str:
    verdict, label = leg.progress.verdict or {}, leg.progress.label
    if leg.fate == "running":
        return f"{label} is not finished: step {leg.progress.step:,} of {leg.progress.steps:,} is saved."
    if leg.fate == "skipped":
        reasons = "; ".join(verdict.get("reasons", [])) or "no reason is recorded"
        return f"{label} was not trained ({leg.progress.outcome or 'skipped'}): {reasons}."
    cost = f"{format_count(leg.tokens)} tokens"
    if leg.progress.outcome == NOT_NEEDED:
        return f"{label} was stopped: {'; '.join(verdict.get('reasons', []))}. It took {cost}."
    if leg.fate == "kept":
        return f"{label} was kept: {_numbers(verdict)}. It took {cost}."
    return f"{label} was rejected as {leg.progress.outcome}: {_numbers(verdict, failed=True)}. It took {cost}."


def _numbers(verdict: dict[str, Any], *, failed: bool = False) -> str:
    """Forgetting and gain in words; with `failed` only what the rejection rests on, where that is known."""
    old, new = verdict.get("old", {}), verdict.get("new", {})
    words = []
    for corpus, found in old.items():
        if failed and found["within"]:
            continue
        moved = (
            f"forgot {found['forgetting']:.3f}"
            if found["forgetting"] >= 0
            else f"improved by {-found['forgetting']:.3f}"
        )
        words.append(f"{called(corpus, found.get('stand_in'))} {moved} nats ({found['tolerance']:.3g} allowed)")
    for corpus, found in new.items():
        if not (failed and found["learned"]):
            words.append(f"{corpus} gained {found['gain']:.3f} nats ({found['needed']:.3f} needed)")
    return ", ".join(words) or "; ".join(verdict.get("reasons", [])) or "no numbers are recorded"


def _control(page: Page, arm: str) -> Iterator[str]:
    """The two lines after the same stage, the last that both have finished."""
    ours, theirs = ([row for row in matrix(page, each) if row.taught] for each in (COOKBOOK, arm))
    length = min(len(ours), len(theirs))
    if length < 2:
        return
    mine, other = ours[length - 1], theirs[length - 1]
    words = []
    for corpus in page.corpora:
        change, control = mine.change.get(corpus), other.change.get(corpus)
        if change is not None and control is not None and corpus != mine.taught:
            words.append(f"{page.plan.called(corpus)} {change:+.2f} against {control:+.2f}")
    yield f"After {mine.after}, nats lost since each corpus was taught, this line against {arm}: {', '.join(words)}."
    new = mine.taught
    if new is not None and new in mine.loss and new in other.loss:
        gap = mine.loss[new] - other.loss[new]
        yield f"The price on the new data: {new} ends {gap:+.2f} nats from where {arm} ends."
