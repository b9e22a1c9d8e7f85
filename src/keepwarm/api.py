"""keepwarm from Python: a whole run, or one attempt of it for another training loop (docs/python.md).

Bad input raises KeepwarmError, work that failed WorkFailed; nothing here ends the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from keepwarm import pipeline
from keepwarm.attempt.line import COOKBOOK, feed_of
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.opened import OpenAttempt
from keepwarm.attempt.records import attempt_in, read_verdict
from keepwarm.attempt.settle import settle_attempt
from keepwarm.blend.buffer import load_buffers
from keepwarm.corpora.prepare import prepared_before
from keepwarm.errors import GuardError, KeepwarmError, LineageError, WorkFailed
from keepwarm.exits import INTERRUPTED, REQUEUE, Requeue
from keepwarm.lineage.deletion import refuse_deleted
from keepwarm.lineage.manifest import Manifest, read_manifest
from keepwarm.plan.cookbook import ladder_for
from keepwarm.plan.load import load_plan, plan_yaml
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate, candidates
from keepwarm.report.html import write_report
from keepwarm.report.status import base_manifest, status
from keepwarm.report.terminal import Terminal
from keepwarm.shifts import measured_shift
from keepwarm.standing import line_before, opened
from keepwarm.strategy.ladder import Tried, best_replay, skip_reason
from keepwarm.tries import Try, past_guards
from keepwarm.work import Approve, Listener, Run


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to. `status` is what `keepwarm status --json` prints.

    `peak` and `cooled` are folders of checkpoints: where the line of accepted stages ends at peak, and the cooldown
    branch off it; None where there is none (yet). `report` is None where it could not be drawn; the listener was told
    why. `waiting`: the stage, candidate and outcome that `approve` asks a person's word on; None where it does not.
    """

    status: dict[str, Any]
    peak: Path | None
    cooled: Path | None
    report: Path | None
    waiting: tuple[str, str, str] | None = None


def run_plan(
    plan: Plan | str | Path, *, stage: str | None = None, approve: Approve = "never", nproc: int = 1,
    listener: Listener | None = None,
) -> RunResult:  # fmt: skip
    """Train a plan's stages (to the end of `stage`), or go on from what is on disk: what `keepwarm run` does.

    `nproc` processes compute together, as with `--nproc`, and print; they have no listener. `listener` is told what
    happens, and nothing is printed of it; without one it is printed as by `keepwarm run`. Control arms and candidates side
    by side run in processes of their own, which print in either case, and which need the script's own work to stand below
    `if __name__ == "__main__":`.

    Raises ToSubmit (exits.py) while jobs of a cluster have still to run,
    KeepwarmError for bad input, WorkFailed when a ladder is exhausted or a run diverged (the report is written
    then, too), KeyboardInterrupt after Ctrl-C: the next call goes on.
    """
    asked = _plan(plan)
    if stage is not None:
        _stage(asked, stage)
    if approve not in (words := get_args(Approve)):
        raise KeepwarmError(f"approve={approve!r}: no such word", "nothing was trained", f"one of: {', '.join(words)}")
    if nproc > 1:
        return _in_processes(asked, stage, approve, nproc, listener)
    waiting = None
    with Terminal(table=True) as terminal:
        told = terminal if listener is None else listener
        try:
            pipeline.run(asked, told, until=stage, approve=approve)
        except pipeline.Waiting as word:
            waiting = word.args
        except WorkFailed:
            _report(asked, told)
            raise
        report = _report(asked, told)
    return _result(asked, report, waiting)


def _in_processes(plan: Plan, stage: str | None, approve: Approve, nproc: int, listener: Listener | None) -> RunResult:
    """`run_plan` by the command line, whose processes know nothing of this one's listener."""
    from keepwarm.engine.launch import launch

    if listener is not None:
        raise KeepwarmError(
            f"run_plan: a listener, with nproc={nproc}",
            "what happens is told in the processes that train, not in this one",
            "leave listener out: they print, and RUN/.../metrics.jsonl has it all",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        path.write_text(plan_yaml(plan), encoding="utf-8")
        code = launch(nproc, ["run", str(path), "--approve", approve, *(("--stage", stage) if stage else ())])
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == REQUEUE:
        raise Requeue("a signal, or the end of the job's time")
    if code:
        raise WorkFailed("what the processes said is above")
    drawn = Path(plan.run.folder) / "report.html"
    return _result(plan, drawn if drawn.exists() else None, _waiting(plan))


def _waiting(plan: Plan) -> tuple[str, str, str] | None:
    """What a person's word is asked on, as it is on record."""
    for stage in status(plan)["stages"]:
        for each in stage["attempts"]:
            if each["waiting"]:
                return stage["name"], each["label"], each["outcome"]
    return None


def _result(plan: Plan, report: Path | None, waiting: tuple[str, str, str] | None) -> RunResult:
    """What a run came to, as it is on disk."""
    found = status(plan)
    ends = found["arms"][COOKBOOK]["checkpoints"]
    peak, cooled = (
        None if ends[phase] is None else Path(plan.run.folder) / ends[phase] for phase in ("peak", "cooled")
    )
    return RunResult(found, peak, cooled, report, waiting)


def resolve_attempt(
    plan: Plan | str | Path, stage: str, candidate: str | None = None, *, listener: Listener | None = None
) -> OpenAttempt:
    """An attempt at a stage as `keepwarm run` would train it, not trained and not recorded.

    `candidate` is the label of one of the stage's ladder (`replay 25%`), or its rung (`replay`); the first that can start
    is taken, of the whole ladder if None. What it starts from is made, as `run` would, where it is not there: the
    corpora, the base, a cooled end of the line. Raises KeepwarmError if an earlier stage is not accepted yet, GuardError
    if the guards let none of them start.
    """
    asked = _plan(plan)
    wanted = _stage(asked, stage)
    with Terminal() as terminal:
        context = opened(asked, wanted, terminal if listener is None else listener)
        return _first_to_start(context, wanted, candidate)


def open_attempt(folder: str | Path) -> OpenAttempt:
    """An attempt as it is recorded in its folder (RUN/arms/ARM/STAGE/NN-RUNG), with the data of its run. Reads only."""
    path = Path(folder).resolve()
    attempt = attempt_in(path)
    if attempt is None:
        raise LineageError(
            f"{path}: there is no attempt", "it has no attempt.json", "name its folder: RUN/arms/ARM/STAGE/NN-RUNG"
        )
    run_folder = path.parents[len(Path(attempt.folder).parts) - 1]
    plan_file, corpora = run_folder / "plan.yaml", {source.corpus for source in attempt.sources}
    plan = load_plan(plan_file) if path == run_folder / attempt.folder and plan_file.exists() else None
    prepared = None if plan is None else prepared_before(plan, sorted(corpora))
    if plan is None or prepared is None:
        raise LineageError(
            f"{path}: is not in a run folder that holds its data",
            f"an attempt's samples are read from its run's corpora ({', '.join(sorted(corpora))})",
            f"name the attempt where it was made: RUN/{attempt.folder}",
        )
    return OpenAttempt(
        run_folder, attempt, feed_of(prepared, load_buffers(run_folder / "buffer")), _start(plan, attempt)
    )


def _plan(plan: Plan | str | Path) -> Plan:
    return plan if isinstance(plan, Plan) else load_plan(plan)


def _stage(plan: Plan, name: str) -> StageSpec:
    found = next((each for each in plan.stages if each.name == name), None)
    if found is None:
        names = ", ".join(each.name for each in plan.stages)
        raise KeepwarmError(f"stage {name!r}: the plan has no such stage", "nothing was trained", f"one of: {names}")
    return found


def _report(plan: Plan, listener: Listener) -> Path | None:
    """The report of a run; a missing drawing library is no reason to fail one."""
    try:
        return write_report(plan)
    except KeepwarmError as error:
        listener.say(f"report: none ({error.what}; {error.fix})")
        return None


def _first_to_start(context: Run, stage: StageSpec, wanted: str | None) -> OpenAttempt:
    line = line_before(context, stage)
    shift = measured_shift(context, line.arm, stage, line.taught[0][1])
    _, rungs = ladder_for(context.plan, context.plan.stages.index(stage), shift.grade)
    ladder = [each for rung in rungs for each in candidates(rung)]
    tries = [Try(stage, line, number, each) for number, each in enumerate(ladder)]
    verdicts = [(each, read_verdict(context.folder / each.folder)) for each in tries]
    best = best_replay([Tried.of(each.number, each.candidate, found) for each, found in verdicts if found is not None])
    refused: list[GuardError] = []
    for each in tries:
        if not _is(each.candidate, wanted) or skip_reason(each.candidate) is not None:
            continue
        asked = replace(each, best_replay=best)
        try:
            attempt, start, _ = past_guards(context, asked)
        except GuardError as error:
            refused.append(error)
            continue
        begun = attempt_in(context.folder / asked.folder) is not None
        settled = settle_attempt(context.plan, attempt) if begun else attempt
        return OpenAttempt(context.folder, settled, context.feed(), start)
    raise refused[0] if refused else _no_such(stage, wanted, ladder)


def _is(candidate: Candidate, wanted: str | None) -> bool:
    return wanted is None or wanted in (candidate.label, candidate.rung)


def _no_such(stage: StageSpec, wanted: str | None, ladder: Sequence[Candidate]) -> KeepwarmError:
    labels = ", ".join(each.label for each in ladder if skip_reason(each) is None)
    what = "a rung that trains" if wanted is None else f"a candidate {wanted!r} that trains"
    return KeepwarmError(
        f"{stage.name}: its ladder has not {what}", "there is nothing to resolve", f"one of: {labels or 'none'}"
    )


def _start(plan: Plan, attempt: Attempt) -> Manifest | None:
    """The manifest an attempt starts from, its tensors still there; of a base trained elsewhere the run keeps it."""
    if attempt.start is None:
        return None
    base, folder = base_manifest(plan), Path(plan.run.folder) / attempt.start
    refuse_deleted(folder)
    return base if base is not None and base.id == attempt.start else read_manifest(folder)
