"""Train an attempt in this process, on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from keepwarm.attempt.line import BASE, Feed, open_stream, threads_for
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import Record
from keepwarm.engine.build import make_model, measure_given
from keepwarm.engine.loop import Job, Stopped, Training
from keepwarm.engine.model import is_hugging_face
from keepwarm.errors import PlanError
from keepwarm.evaluate.heldout import HeldOut, load_heldout
from keepwarm.lineage.manifest import Manifest, read_manifest, write_record
from keepwarm.plan.model import Plan

SAVES_AN_ATTEMPT = 4


def train(
    plan: Plan, plan_sha256: str, attempt: Attempt, header: Record, feed: Feed, start: Manifest | None,
    tell: Callable[[Record], None], hopeless: Callable[[list[Record]], str | None] | None = None,
) -> None:  # fmt: skip
    """Bring the attempt to its end, from wherever it stands on disk. Ctrl-C or SIGTERM saves at the next step's border
    and raises KeyboardInterrupt; a second one does not wait."""
    run_folder = Path(plan.run.folder)
    asked: list[int] = []
    job = Job(
        run_folder=run_folder, plan_sha256=plan_sha256, attempt=attempt, header=header,
        stream=open_stream(attempt, feed), heldout=_heldout(plan, feed), start=start,
        make_model=lambda: make_model(attempt, run_folder, start),
        identity={"tokenizer_sha256": attempt.tokenizer_sha256, "vocab_size": attempt.vocab_size,
                  "sequence_length": attempt.sequence_length},
        save_steps=save_steps(plan, attempt), threads=threads_for(plan, attempt.stage), tell=tell, hopeless=hopeless,
        stop=lambda: bool(asked),
    )  # fmt: skip
    training = Training(job)
    try:
        with _signals_into(asked):
            training.run()
        if asked:  # during the last step or its evaluation: the attempt is whole, what comes after it is not begun
            raise KeyboardInterrupt
    except Stopped:
        raise KeyboardInterrupt from None
    finally:
        training.close()


def adopt_base(plan: Plan, feed: Feed, say: Callable[[str], None]) -> Manifest:
    """The manifest of a base trained elsewhere: read from it or declared in the plan, its losses measured here once."""
    record = Path(plan.run.folder) / "arms/cookbook/base/00-given"
    if (record / "manifest.json").exists():
        return read_manifest(record)
    manifest = _given(plan, feed)
    say(f"measuring the base {manifest.id}")
    document_eod = feed.tokenizer.eod_id if plan.document_mask else None
    measured = measure_given(manifest, _heldout(plan, feed), threads_for(plan, BASE), document_eod)
    write_record(record, measured)
    return measured


def _given(plan: Plan, feed: Feed) -> Manifest:
    """What is known of a given base: its own manifest, or what the plan declares of a Hugging Face folder."""
    folder = Path(str(plan.base.checkpoint))
    if (folder / "manifest.json").is_file():
        manifest = read_manifest(folder)
        declared = plan.base.phase
        if declared is not None and declared != manifest.phase:
            raise PlanError(
                f"base.phase: the plan says {declared}, {folder}/manifest.json says {manifest.phase}",
                "the phase decides which rungs may start here",
                "leave base.phase out, the manifest knows it",
            )
        return replace(manifest, id=str(folder.resolve()), parent=None)
    if not is_hugging_face(folder):
        raise PlanError(
            f"base.checkpoint: {folder} is neither a keepwarm checkpoint nor a Hugging Face folder (no config.json)",
            "there are no weights to go on from",
            "base: {checkpoint: FOLDER, corpus: d0, lr: 3e-4, phase: cooled}",
        )
    if plan.base.lr is None or plan.base.phase is None:
        raise PlanError(
            f"base: {folder} does not say at which learning rate it ended, nor in which phase",
            "which rungs may start from it depends on both, and they are never assumed",
            f"base: {{checkpoint: {folder}, corpus: {plan.base.corpus}, lr: 3e-4, phase: cooled}}",
        )
    return Manifest(
        id=str(folder.resolve()), parent=None, arm="cookbook", stage="base", rung="given", attempt="", plan="", step=0,
        samples=0, attempt_tokens=0, line_tokens=0, lr=plan.base.lr, lr_max=plan.optimizer.lr_max,
        phase=plan.base.phase, phase_is="declared", optimizer_state=False, sequence_length=plan.sequence_length,
        vocab_size=feed.tokenizer.vocab_size, tokenizer_sha256=feed.tokenizer.sha256,
    )  # fmt: skip


def _heldout(plan: Plan, feed: Feed) -> dict[str, HeldOut]:
    return {
        name: load_heldout(name, c.holdout_prefix, plan.sequence_length, c.holdout_text_bytes, c.holdout_tokens)
        for name, c in feed.corpora.items()
    }


@contextlib.contextmanager
def _signals_into(asked: list[int]) -> Iterator[None]:
    """Collect the first SIGINT or SIGTERM in `asked`; the second interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def save_steps(plan: Plan, attempt: Attempt) -> int:
    """Steps between checkpoints: a quarter of the attempt, or what `run.save_every` says."""
    if plan.run.save_every == "auto":
        return max(1, -(-attempt.steps // SAVES_AN_ATTEMPT))
    return max(1, round(int(plan.run.save_every) / attempt.step_tokens))
