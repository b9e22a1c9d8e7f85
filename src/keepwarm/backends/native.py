"""Train an attempt in this process, on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keepwarm.attempt.build import model_words
from keepwarm.attempt.line import BASE, Feed, identity, open_stream, threads_for
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.records import Record
from keepwarm.backends.given import given
from keepwarm.engine.build import make_model, measure_given
from keepwarm.engine.loop import Job, Stopped, Training
from keepwarm.evaluate.heldout import HeldOut, load_heldout
from keepwarm.lineage.manifest import Manifest, read_manifest, write_record
from keepwarm.plan.model import Plan

SAVES_AN_ATTEMPT = 4


def train(
    plan: Plan, plan_sha256: str, attempt: Attempt, header: Record, feed: Feed, start: Manifest | None,
    tell: Callable[[Record], None], watch: Callable[[list[Record]], Sequence[Record]] | None = None,
) -> None:  # fmt: skip
    """Bring the attempt to its end, from wherever it stands on disk. Ctrl-C or SIGTERM saves at the next step's border
    and raises KeyboardInterrupt; a second one does not wait."""
    run_folder = Path(plan.run.folder)
    asked: list[int] = []
    job = Job(
        run_folder=run_folder, plan_sha256=plan_sha256, attempt=attempt, header=header,
        stream=open_stream(attempt, feed), heldout=heldout_of(plan, feed), start=start,
        make_model=lambda: make_model(attempt, run_folder, start),
        identity=identity(plan, feed), save_steps=save_steps(plan, attempt),
        threads=threads_for(plan, attempt.stage), tell=tell, watch=watch, stop=lambda: bool(asked),
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
    manifest = given(plan, feed.tokenizer)
    say(f"measuring the base {manifest.id}")
    document_eod = feed.tokenizer.eod_id if plan.document_mask else None
    measured = measure_given(
        manifest, heldout_of(plan, feed), threads_for(plan, BASE), document_eod, model_words(plan),
        feed.tokenizer.vocab_size, plan.sequence_length, plan.base.allow,
    )  # fmt: skip
    write_record(record, measured)
    return measured


def heldout_of(plan: Plan, feed: Feed) -> dict[str, HeldOut]:
    """The held-out windows of every corpus."""
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
