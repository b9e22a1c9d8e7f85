"""The state of a run as data: `keepwarm status --json`, the demo's table and the report all read this.

`{"stand_ins": {CORPUS: "proxy" or "generated"}, "stages": [{"name", "state", "shift", "attempts": [...],
"choices": [...], "forecast": [...]}], "arms": {ARM: {"forgetting", "regret", "loss"}}, "account": {...}, "next": {...}}`.
Read from the run folder alone; no torch, and it never writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keepwarm.attempt.choices import read_choices
from keepwarm.attempt.line import BASE, COOKBOOK, COOLDOWN
from keepwarm.attempt.passed_over import passed_over_words
from keepwarm.attempt.progress import EXHAUSTED, Progress, attempts_of, end_of
from keepwarm.attempt.records import read_attempt, read_metrics
from keepwarm.attempt.steered import steered_words
from keepwarm.lineage.manifest import Manifest, read_manifest
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.report.account import account
from keepwarm.report.decisions import said
from keepwarm.report.forecasted import measured_error
from keepwarm.report.shifted import shift_of

D0_ONLY = "d0-only"
EXHAUSTED_ADVICE = (
    'keepwarm decide PLAN accept --stage {stage} --because "..." takes its best attempt; '
    "or lengthen its ladder in the plan"
)
WAITING_ADVICE = 'keepwarm decide PLAN accept --stage {stage} --because "..." (or: reject, next RUNG)'


def status(plan: Plan) -> dict[str, Any]:
    """Everything a script or a table wants to know of a run."""
    stages = [_stage(plan, COOKBOOK, stage) for stage in plan.stages]
    arms = {arm: _arm(plan, arm) for arm in (COOKBOOK, *plan.control)}
    _add_regret(plan, arms)
    cost = account(plan)
    return {
        "name": plan.name,
        "folder": plan.run.folder,
        "stand_ins": plan.stand_ins,
        "base": _base(plan),
        "stages": stages,
        "arms": arms,
        "spent_tokens": cost["total"]["tokens"],
        "account": cost,
        "next": _next(plan, stages),
    }


def base_manifest(plan: Plan) -> Manifest | None:
    """The base's checkpoint once it is there: trained by this run, or given."""
    folder = Path(plan.run.folder) / "arms" / COOKBOOK / BASE
    given = folder / "00-given"
    if (given / "manifest.json").exists():
        return read_manifest(given)
    return end_of(folder / f"00-{BASE}") if (folder / f"00-{BASE}" / "attempt.json").exists() else None


def accepted(plan: Plan, arm: str, stage: str) -> Progress | None:
    """The attempt an arm's line goes through at a stage."""
    return next((each for each in attempts_of(Path(plan.run.folder), arm, stage) if each.accepted), None)


def _base(plan: Plan) -> dict[str, Any]:
    manifest = base_manifest(plan)
    if manifest is None:
        return {"state": "pending"}
    return {
        "state": "done",
        "checkpoint": manifest.id,
        "phase": manifest.phase,
        "phase_is": manifest.phase_is,
        "tokens": manifest.line_tokens,
        "loss": {name: found["loss"] for name, found in manifest.evaluation.items()},
        "attempts": [_attempt(each) for each in attempts_of(Path(plan.run.folder), COOKBOOK, BASE) if each.steps],
    }


def _add_regret(plan: Plan, arms: dict[str, dict[str, Any]]) -> None:
    """Regret = the loss on D_0 minus that of the arm that went on with D_0 alone, where it was run; at peak."""
    control, name = arms.get(D0_ONLY, {}).get("loss", {}), plan.base.corpus
    for facts in arms.values():
        for phase in ("peak", "cooled"):
            mine, theirs = facts["loss"].get(name, {}).get(phase), control.get(name, {}).get(phase)
            if facts["regret"] is None and mine is not None and theirs is not None:
                facts["regret"] = {name: mine - theirs}


def _stage(plan: Plan, arm: str, stage: StageSpec) -> dict[str, Any]:
    found = [each for each in attempts_of(Path(plan.run.folder), arm, stage.name) if each.rung != COOLDOWN]
    state = "pending"
    if any(each.accepted for each in found):
        state = "accepted"
    elif any(each.outcome is None for each in found):
        state = "running"
    elif found:
        state = "exhausted" if (found[0].folder.parent / EXHAUSTED).exists() else "running"
    folder = Path(plan.run.folder) / "arms" / arm / stage.name
    ended = json.loads((folder / EXHAUSTED).read_text(encoding="utf-8")).get("why") if state == "exhausted" else None
    return {
        "name": stage.name,
        "new": stage.new,
        "state": state,
        "shift": shift_of(plan, stage, arm),
        "attempts": [_attempt(each) for each in found],
        "choices": read_choices(folder),
        "forecast": measured_error(plan, stage.name),
        "ended": ended,
    }


def _attempt(each: Progress) -> dict[str, Any]:
    verdict = each.verdict or {}
    content: dict[str, Any] = {
        "rung": each.rung,
        "label": each.label,
        "outcome": each.outcome,
        "accepted": each.accepted,
        "tokens": each.tokens,
        "step": each.step,
        "steps": each.steps,
        "reasons": verdict.get("reasons", []),
        "trouble": verdict.get("trouble"),
        "helps": verdict.get("helps"),
        "decision": verdict.get("decision"),
        "waiting": each.waiting,
        "folder": str(each.folder),
    }
    if each.steps:
        attempt = read_attempt(each.folder)
        content["asked"] = {part.role: float(part.share) for part in attempt.parts}
        content["lr"] = [float(attempt.schedule.lr(0)), float(attempt.schedule.lr(attempt.tokens))]
        content["allowed"], content["warnings"] = list(attempt.allow), list(attempt.warnings)
    if (each.folder / "metrics.jsonl").exists():
        records = read_metrics(each.folder / "metrics.jsonl")
        content["said"], content["passed_over"] = said(records), list(passed_over_words(records))
        content["loss"], content["kept"] = _losses(records), records[0].get("kept", []) if records else []
        if each.steps and attempt.steering is not None:
            content["steered"] = steered_words(attempt, records)
    if "fed" in verdict:
        total = sum(row["fed_tokens"] for row in verdict["fed"])
        roles: dict[str, float] = {}
        for row in verdict["fed"]:
            roles[row["role"]] = roles.get(row["role"], 0) + row["fed_tokens"] / max(1, total)  # 0: broken at once
        content["fed"] = roles
    return content


def _losses(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Each corpus before and after the attempt, over all its held-out windows: nats per token and bits per byte."""
    full = [record for record in records if record["kind"] == "eval" and record["full"]]
    if not full:
        return {}
    before, after = full[0], full[-1] if full[-1]["step"] else None
    return {
        name: {
            "before": before["loss"][name],
            "after": after["loss"][name] if after else None,
            "bits_per_byte": [before["bits_per_byte"][name], after["bits_per_byte"][name] if after else None],
        }
        for name in before["loss"]
    }


def _arm(plan: Plan, arm: str) -> dict[str, Any]:
    """Losses and forgetting at the end of an arm's line (as far as it has come)."""
    base = base_manifest(plan)
    taught: list[tuple[str, Manifest]] = [(name, base) for name in plan.known_by_base] if base else []
    last = base
    cooled: Manifest | None = None
    kept: Progress | None = None
    for stage in plan.stages:
        kept = accepted(plan, arm, stage.name)
        end = end_of(kept.folder) if kept else None
        if end is None:
            break
        last = end
        if arm != D0_ONLY:
            taught.append((stage.new, end))
        branch = [each for each in attempts_of(Path(plan.run.folder), arm, stage.name) if each.rung == COOLDOWN]
        cooled = end_of(branch[-1].folder) if branch else None
    if last is None:
        return {"forgetting": {}, "regret": None, "loss": {}}
    forgetting = {n: last.evaluation[n]["loss"] - at.evaluation[n]["loss"] for n, at in taught if at is not last}
    at_peak: Manifest | None = last
    if last.phase == "cooled":  # cooled against cooled: the verdict's references, less the cooldown's drop
        at_peak, cooled = None, last
        if kept is not None and kept.verdict is not None:
            forgetting = {name: found["forgetting"] for name, found in kept.verdict["old"].items()}
    return {
        "forgetting": forgetting,
        "phase": last.phase,
        "regret": None,
        "loss": {
            name: {
                "peak": at_peak.evaluation[name]["loss"] if at_peak else None,
                "cooled": cooled.evaluation[name]["loss"] if cooled else None,
            }
            for name in last.evaluation
        },
        "after": {name: {corpus: found["loss"] for corpus, found in at.evaluation.items()} for name, at in taught},
        "checkpoint": (cooled or last).id,
        "checkpoints": {"peak": at_peak.id if at_peak else None, "cooled": cooled.id if cooled else None},
    }


def _next(plan: Plan, stages: list[dict[str, Any]]) -> dict[str, Any]:
    waiting = next((stage for stage in stages if stage["state"] != "accepted"), None)
    if waiting is not None and waiting["state"] == "exhausted":
        return {"stage": waiting["name"], "do": EXHAUSTED_ADVICE.format(stage=waiting["name"])}
    if waiting is not None and any(attempt["waiting"] for attempt in waiting["attempts"]):
        return {"stage": waiting["name"], "do": WAITING_ADVICE.format(stage=waiting["name"])}
    if waiting is not None:
        return {"stage": waiting["name"], "do": "keepwarm run"}
    return {"stage": None, "do": "nothing: every stage is accepted"}
