"""Train an attempt here: in this process, or in all the processes of its run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.build import model_words
from keepwarm.attempt.line import BASE, Feed, identity, threads_for
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import Record, Watch, read_metrics
from keepwarm.backends.given import given
from keepwarm.backends.stopping import noted
from keepwarm.backends.together import everywhere, here
from keepwarm.engine import machine as machines
from keepwarm.engine.build import Computing, Measuring, blueprint_of, measure_given, skeleton
from keepwarm.engine.job import Hooks, Job
from keepwarm.engine.loop import Stopped
from keepwarm.engine.loop import train as bring_to_end
from keepwarm.engine.sinks import copied
from keepwarm.errors import PlanError
from keepwarm.evaluate.heldout import HeldOut, load_heldout
from keepwarm.lineage.manifest import Manifest, checkpoints_of, read_manifest, write_record
from keepwarm.plan.model import Plan

SAVES_AN_ATTEMPT = 4
MACHINE = "machine.json"  # what the run's first machine could compute, and the precision that followed


def train(
    plan: Plan, plan_sha256: str, attempt: Attempt, header: Record, feed: Feed, start: Manifest | None, how: Computing,
    tell: Callable[[Record], None], watch: Watch | None = None,
) -> None:  # fmt: skip
    """Bring the attempt to its end, from wherever it stands on disk. A signal, or the end of the job's time, saves at the
    next step's border and raises KeyboardInterrupt, or Requeue; a second signal does not wait."""
    needed = {source.id for source in attempt.sources}
    job = Job(
        run_folder=Path(plan.run.folder), plan_sha256=plan_sha256, attempt=attempt, header=header,
        sources={name: source for name, (source, _) in feed.sources.items() if name in needed},
        heldout=heldout_of(plan, feed), start=start, identity=identity(plan, feed),
        save_steps=save_steps(plan, attempt), threads=threads_for(plan, attempt.stage), how=how,
    )  # fmt: skip
    with noted() as deadline, copied(plan.run.trackers, job.run_folder, plan.name, attempt, tell) as told:
        try:
            everywhere(bring_to_end, job, leader=(Hooks(tell=told, watch=watch, stop=deadline),))
        except Stopped:
            raise deadline.raised() from None
    if deadline.signals:  # during the last step or its evaluation: the attempt is whole, what comes after is not begun
        raise deadline.raised()


def adopt_base(plan: Plan, feed: Feed, say: Callable[[str], None]) -> Manifest:
    """The manifest of a base trained elsewhere: read from it or declared in the plan, its losses measured here once."""
    record = Path(plan.run.folder) / "arms/cookbook/base/00-given"
    if (record / "manifest.json").exists():
        return read_manifest(record)
    manifest = given(plan, feed.tokenizer)
    say(f"measuring the base {manifest.id}")
    asked = Measuring(
        heldout=heldout_of(plan, feed), threads=threads_for(plan, BASE),
        document_eod=feed.tokenizer.eod_id if plan.document_mask else None, words=model_words(plan),
        vocab_size=feed.tokenizer.vocab_size, sequence_length=plan.sequence_length, allow=plan.base.allow,
    )  # fmt: skip
    measured = everywhere(
        measure_given, manifest, asked, Computing(precision=precision_of(plan, say), world_size=here().size)
    )
    write_record(record, measured)
    return measured


def computing(
    plan: Plan, attempt: Attempt, start: Manifest | None, say: Callable[[str], None]
) -> Computing:  # fmt: skip
    """How an attempt is computed. What it began with it goes on with; `run.compile` may be changed on the way."""
    found, world = _machine(plan, say), here()
    folder = Path(plan.run.folder) / attempt.folder
    asked = plan.run.compile
    begun = read_metrics(folder / "metrics.jsonl")[0] if checkpoints_of(folder) else {}
    if asked == "auto" and "compiled" in begun:
        compiled = bool(begun["compiled"])
    else:
        config = blueprint_of(attempt, Path(plan.run.folder), start).config
        flops = machines.flops_per_token(skeleton(config), attempt.sequence_length) * attempt.tokens
        machine = machines.Machine(found["device"], found["threads"], found["peak"])
        # A GPU's peak is one process's; a CPU's was measured with the threads of all.
        processes = world.size if world.device.type == "cuda" else world.size // world.local_size
        compiled = machines.compiling_pays(asked, flops, machine, found["precision"], processes, world.device.type)
    recomputed = plan.run.activation_checkpointing
    return Computing(
        precision=found["precision"], world_size=world.size, compiled=compiled, recomputed=recomputed
    )  # fmt: skip


def precision_of(plan: Plan, say: Callable[[str], None]) -> str:
    """The precision of every loss of a run, decided by the machine that computes the first."""
    return str(_machine(plan, say)["precision"])


def _machine(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """RUN/machine.json: read, or measured and written."""
    path, asked = Path(plan.run.folder) / MACHINE, plan.precision
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if asked not in ("auto", found["precision"]):
            raise PlanError(
                f"precision: {asked}, but this run's attempts are trained in {found['precision']}",
                "losses in two precisions are compared with each other nowhere in a run",
                f"precision: {found['precision']}, or start anew: run: {{folder: ...}}",
            )
        return found
    device, threads = here().device, threads_for(plan, BASE)
    machine = machines.measure_machine(device, threads)
    chosen, why = machines.chosen_precision(asked, machine)
    if asked == "auto":
        say(f"precision {chosen}: {why}")
    found = {**machine.to_dict(), "precision": chosen, "why": why}
    files.write_json(path, found)
    return found


def heldout_of(plan: Plan, feed: Feed) -> dict[str, HeldOut]:
    """The held-out windows of every corpus."""
    return {
        name: load_heldout(name, c.holdout_prefix, plan.sequence_length, c.holdout_text_bytes, c.holdout_tokens)
        for name, c in feed.corpora.items()
    }


def save_steps(plan: Plan, attempt: Attempt) -> int:
    """Steps between checkpoints: a quarter of the attempt, or what `run.save_every` says."""
    if plan.run.save_every == "auto":
        return max(1, -(-attempt.steps // SAVES_AN_ATTEMPT))
    return max(1, round(int(plan.run.save_every) / attempt.step_tokens))
