"""Forecasts: short pilots off the checkpoint where the line stands before a stage, and what they say of the whole stage.

Pilots lie below `arms/pilots`, each with its own lock, and are made once: what is there is read, one that was killed goes
on. The line stays as it is. `forecast.json` beside them is the forecast, with all that it was decided from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.candidates import resolve
from keepwarm.attempt.line import Feed, Line
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.pilot import Part, pilot_of
from keepwarm.attempt.progress import end_of
from keepwarm.attempt.records import allowed_before, attempt_in, read_metrics
from keepwarm.attempt.resolve import Request
from keepwarm.attempt.settle import settle_attempt
from keepwarm.attempt.timing import FORWARD_COST
from keepwarm.errors import KeepwarmError, WorkFailed
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.graph import all_manifests
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan, StageSpec, allowing
from keepwarm.plan.rungs import Candidate
from keepwarm.plan.values import Length
from keepwarm.report.account import PILOTS, spent
from keepwarm.report.forecasted import FORECAST
from keepwarm.standing import line_before, opened
from keepwarm.strategy.forecast import Asked, Pilot, made
from keepwarm.strategy.surface import Steps, drift_of
from keepwarm.units import format_share
from keepwarm.work import Listener, Run, train

MOMENT_LIVES = 2  # a pilot outlasts the first moment of AdamW, 1 / (1 - beta) steps, so many times
MOST_PILOTS = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What a forecast is asked for."""

    pilot: Length
    shares: tuple[Fraction, ...]
    budgets: tuple[int, ...] = ()  # tokens; none: half the stage, the stage, twice the stage
    control: bool = False


def forecast(plan: Plan, listener: Listener, name: str, asked: Settings) -> dict[str, Any]:
    """Train the pilots of a stage, or read them, and forecast; the record, which `forecast.json` then holds too."""
    stage = next(each for each in plan.stages if each.name == name)
    steps = _steps(plan.of_stage(stage), stage, asked)
    context = opened(plan, stage, listener)
    line = line_before(context, stage)
    rung = "replay" if stage is plan.stages[0] else "replay-previous-mix"
    wanted = [_candidate(rung, share) for share in asked.shares]
    pilots, rows = [], []
    for candidate, share in [*zip(wanted, asked.shares, strict=True), *([(None, Fraction(1))] * asked.control)]:
        chosen = candidate or Candidate(rung, f"{rung} 100%", {"share": Fraction(1)})
        attempt, parts = _piloted(context, stage, line, chosen, steps)
        records = read_metrics(context.folder / attempt.folder / "metrics.jsonl")
        pilots.append(Pilot(float(share), records, candidate is None))
        rows.append(_row(attempt, share, parts, control=candidate is None))
    content: dict[str, Any] = {
        "stage": name,
        "rung": rung,
        "from": line.end.id,
        "plan": context.plan_sha256,
        "pilots": rows,
    }
    content |= made(pilots, _drifts(context, line, pilots), _asked(plan.of_stage(stage), stage, line, asked))
    content["cost"] = _cost(plan, {row["folder"] for row in rows})
    _keep(context.folder / "arms" / PILOTS / name / FORECAST, content)
    return content


def _steps(plan: Plan, stage: StageSpec, asked: Settings) -> int:
    """Optimizer steps of a pilot; KeepwarmError if they are too few to fit anything to, or no pilot of the stage."""
    whole = plan.whole_steps(stage.tokens) // plan.step_tokens
    steps = asked.pilot.tokens_of(stage.tokens) // plan.step_tokens
    least = math.ceil(round(MOMENT_LIVES / (1 - plan.optimizer.betas[0]), 6))  # 1 - .9 is a little less than .1
    if len(set(asked.shares)) < 2 or max(asked.shares) >= 1:
        given = ",".join(format_share(share) for share in asked.shares)
        raise KeepwarmError(
            f"--shares {given}: a law of the replay share needs two or more of them, below 100%",
            "nothing was trained", "--shares 0,5%,25%",
        )  # fmt: skip
    if steps >= whole:
        raise KeepwarmError(
            f"--pilot {asked.pilot}: {steps:,} steps, and {stage.name} has {whole:,}",
            "that would be the stage itself; nothing was trained",
            f"keepwarm run PLAN --stage {stage.name}, or --pilot {format_share(max(0.1, least / whole))}",
        )
    if steps < least:
        enough = math.ceil(1000 * least / whole) / 10
        fix = f"--pilot {enough:g}%" if least < whole else f"train it: keepwarm run PLAN --stage {stage.name}"
        raise KeepwarmError(
            f"--pilot {asked.pilot}: {steps:,} optimizer steps of {stage.name}'s {whole:,}, {least} are the fewest",
            f"the optimizer's first moment remembers {1 / (1 - plan.optimizer.betas[0]):.0f} steps of old data: until it has "
            "turned, losses say little of where they go",
            fix,
        )
    return steps


def _candidate(rung: str, share: Fraction) -> Candidate:
    if not share:
        return Candidate("naive", "naive", {})
    return Candidate(rung, f"{rung} {format_share(share)}", {"share": share})


def _piloted(
    context: Run, stage: StageSpec, line: Line, candidate: Candidate, steps: int
) -> tuple[Attempt, tuple[Part, ...]]:
    """Train a pilot to its end, or read it where it is done."""
    folder = context.folder / "arms" / PILOTS / stage.name
    for number in range(MOST_PILOTS):
        path = folder / f"{number:02d}-{candidate.rung}"
        allowed = allowing(stage, allowed_before(path))
        trunk = [manifest for manifest in all_manifests(context.folder) if manifest.attempt in line.attempts]
        request = Request(context.plan, allowed, context.feed(), replace(line, arm=PILOTS), number, candidate, trunk)
        full, start = resolve(request)
        attempt, feed, parts = pilot_of(full, context.feed(), steps, PILOTS, number)
        there = attempt_in(path)
        taken = any(other.name.startswith(f"{number:02d}-") and other != path for other in folder.glob("*"))
        if not taken and (there is None or there.sha256 == attempt.sha256):
            _trained(context, attempt, feed, start, line)
            return attempt, parts
    raise KeepwarmError(
        f"{folder}: has {MOST_PILOTS} pilots", "their numbers have two digits", "remove those that are not needed"
    )


def _trained(context: Run, attempt: Attempt, feed: Feed, start: Manifest, line: Line) -> None:
    folder = context.folder / attempt.folder
    if attempt_in(folder) is not None and end_of(folder) is not None:
        return
    refuse_deleted(context.folder / start.id)
    with files.run_lock(folder, context.listener.say):
        if train(context, settle_attempt(context.plan, attempt), feed, start, line) is None:
            raise WorkFailed(f"{attempt.folder}: the pilot diverged; lower optimizer.lr_max, or look at the data")


def _row(attempt: Attempt, share: Fraction, parts: Sequence[Part], *, control: bool) -> dict[str, Any]:
    thinned = [{"name": part.name, "windows": part.windows, "of_windows": part.of_windows} for part in parts]
    found = {"folder": attempt.folder, "share": float(share), "control": control, "steps": attempt.steps}
    return found | {"tokens": attempt.tokens, "thinned": thinned}


def _drifts(context: Run, line: Line, pilots: Sequence[Pilot]) -> dict[str, tuple[float, float] | None]:
    """What the stage before did to each old corpus in its later half: what its mix would go on to do."""
    path = context.folder / line.end.id.partition("/checkpoints/")[0] / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    looks = [record for record in records if record["kind"] == "eval" and record["step"] > 0 and not record["full"]]
    found = {}
    for name in pilots[0].records[0]["old"]:
        seen = [(look["tokens"], look["loss"][name]) for look in looks if look["loss"].get(name) is not None]
        found[name] = drift_of([at for at, _ in seen], [loss for _, loss in seen])
    return found


def _asked(plan: Plan, stage: StageSpec, line: Line, asked: Settings) -> Asked:
    tokens = plan.whole_steps(stage.tokens)
    budgets = asked.budgets or (tokens // 2, tokens, 2 * tokens)
    before = line.end.attempt_tokens or line.end.line_tokens or tokens
    return Asked(tokens, sorted(budgets), Steps(plan.step_tokens, plan.optimizer.betas[0]), before, plan.seed)


def _cost(plan: Plan, folders: set[str]) -> dict[str, Any]:
    run = Path(plan.run.folder)
    mine = [each for each in spent(plan) if str(each.folder.relative_to(run)) in folders]
    measured = sum(each.evaluation_tokens for each in mine)
    trained = sum(each.tokens for each in mine)
    return {"tokens": trained, "evaluation_tokens": measured, "compute_tokens": trained + FORWARD_COST * measured}


def _keep(path: Path, content: dict[str, Any]) -> None:
    """Write the forecast; another one that was there is kept beside it by its hash: what was said stays said."""
    before = path.read_bytes() if path.exists() else None
    files.write_json(path, content, replace=True)
    if before is not None and before != path.read_bytes():
        files.write_bytes(path.with_name(f"forecast-{hashlib.sha256(before).hexdigest()[:12]}.json"), before)
