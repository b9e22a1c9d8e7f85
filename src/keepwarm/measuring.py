"""The losses of any checkpoint that can be read, on a plan's held-out windows: `keepwarm eval`, here and in jobs.

A converted model has the tokenizer's own entries; the trainer's has rows of padding beside them, which take part in its
softmax. So the trainer's own losses are higher by what it spends on them, most of it before training: ln(padded rows /
real rows) at random weights, nothing to speak of later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keepwarm import files
from keepwarm.attempt.line import Feed, feed_of, identity
from keepwarm.attempt.records import finite
from keepwarm.backends.megatron.evaluate import Evaluation, evaluation_path, to_evaluate, write_evaluation
from keepwarm.backends.megatron.record import EVALUATIONS
from keepwarm.blend.buffer import load_buffers
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import KeepwarmError, LineageError
from keepwarm.evaluate.heldout import Measured, bits_per_byte, measure
from keepwarm.lineage.foreign import look_at
from keepwarm.observing import Named, attempt_folder
from keepwarm.plan.model import Plan

Say = Callable[[str], None]


def measured(plan: Plan, feed: Feed, checkpoint: Path, *, trust: bool, say: Say) -> Evaluation:
    """A checkpoint's losses over all held-out windows of every corpus, in the run's precision, in this process.

    LineageError for what is no whole checkpoint, is pickled and not trusted, or is of a smaller vocabulary.
    """
    from keepwarm.backends.native import heldout_of, precision_of
    from keepwarm.convert.reader import open_model
    from keepwarm.engine.build import check_documents
    from keepwarm.engine.network import evaluating_network

    found = look_at(checkpoint)
    model = open_model(checkpoint, trust)
    config: Any = model.config
    entries, needed = int(config.vocab_size), feed.tokenizer.vocab_size
    if entries < needed:
        raise LineageError(
            f"{checkpoint}: has {entries:,} entries, the plan's tokenizer {needed:,}",
            "its tokens would not be the plan's", "name a checkpoint of this plan's tokenizer",
        )  # fmt: skip
    with files.run_lock(Path(plan.run.folder), say):
        precision = precision_of(plan, say)
    network = evaluating_network(model, precision, feed.tokenizer.eod_id if plan.document_mask else None)
    check_documents(network)
    heldout = heldout_of(plan, feed)
    losses = {name: measure(each, network.window_losses) for name, each in heldout.items()}
    return Evaluation(
        iteration=found.iteration or 0, checkpoint=str(found.folder), kind=found.kind, precision=precision,
        holdout=identity(plan, feed)["holdout"],
        padding=max(0, int(found.architecture.get("padded_vocab_size", 0)) - entries),
        losses={name: _facts(each, heldout[name].tokens_per_byte) for name, each in losses.items()},
    )  # fmt: skip


def measured_by(
    plan: Plan, checkpoint: Path | None, out: Path | None, named: Named, *, trust: bool, say: Say
) -> Iterator[tuple[Path | None, Evaluation]]:  # fmt: skip
    """The losses of one checkpoint, written to `out` where that is given; or of every saved step of a launched attempt."""
    needless = "--out" if checkpoint is None and out is not None else None
    if checkpoint is not None and named != Named():
        needless = "--stage, --rung or --arm"
    if needless is not None:
        raise KeepwarmError(
            f"{needless}: {'with' if checkpoint else 'without'} a checkpoint", "that would be ignored",
            "keepwarm eval PLAN CHECKPOINT -o FILE, or keepwarm eval PLAN --stage STAGE --rung RUNG",
        )  # fmt: skip
    if checkpoint is None:
        yield from evaluate_saved(plan, named, trust=trust, say=say)
        return
    found = measured(plan, _feed(plan, say), checkpoint, trust=trust, say=say)
    if out is not None:
        write_evaluation(out, found)
    yield out, found


def evaluate_saved(plan: Plan, named: Named, *, trust: bool, say: Say) -> Iterator[tuple[Path, Evaluation]]:
    """Measure every saved step of a launched attempt that was not measured yet, and write each down as it is there.

    Another process that does the same is waited for.
    """
    folder = attempt_folder(plan, named)
    with files.run_lock(folder / EVALUATIONS, say):
        waiting = to_evaluate(folder)
        feed = _feed(plan, say) if waiting else None
        for iteration, checkpoint in waiting:
            assert feed is not None
            found = measured(plan, feed, checkpoint, trust=trust, say=say)
            if found.iteration != iteration:
                raise LineageError(
                    f"{checkpoint}: says that it is of iteration {found.iteration:,}",
                    "its losses would stand at another step", "save it again, or remove it",
                )  # fmt: skip
            path = evaluation_path(folder, iteration)
            write_evaluation(path, found)
            yield path, found


def _feed(plan: Plan, say: Say) -> Feed:
    return feed_of(prepare(plan, say), load_buffers(Path(plan.run.folder) / "buffer"))


def _facts(found: Measured, tokens_per_byte: float | None) -> dict[str, object]:
    loss = finite(found.loss)
    return {
        "loss": loss, "bits_per_byte": None if loss is None else bits_per_byte(loss, tokens_per_byte),
        "windows": [finite(each) for each in found.windows],
    }  # fmt: skip
