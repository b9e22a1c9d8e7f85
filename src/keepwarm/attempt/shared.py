"""What two attempts share is trained once: an attempt begins from the newest checkpoint of an earlier one of its stage
up to which both are the same training, bit for bit.

They are, as long as they start from the same checkpoint with the same moments, seed, model and optimizer, cut the same
samples of the same mixes into the same steps, at exactly the same learning rates; and their records are the same, as
long as they are measured at the same points over the same windows. A rewind is the one attempt's alone: what follows the
steps that it passes over is not shared. So the checkpoint is taken over (its files linked,
with a manifest of this attempt) and the metrics up to it, and an event `shared` says what was not trained again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.attempt.line import COOLDOWN
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.progress import attempts_of
from keepwarm.attempt.records import REWOUND, Record, read_attempt, read_metrics, write_metrics
from keepwarm.attempt.rewinds import read_rewinds, untouched_steps
from keepwarm.blend.stream import Segment
from keepwarm.lineage.deletion import deletion_of
from keepwarm.lineage.manifest import Manifest, checkpoint_name, checkpoints_of, read_manifest, write_record

SHARED = "shared"  # the event: what is before it was trained by another attempt
_OWN_EVENTS = (SHARED, REWOUND, "resumed", "control", "regret")  # of one attempt's story; others follow from records
_SAME = ("arm", "stage", "start", "moments", "seed", "optimizer", "sequence_length", "micro_batch_size", "model",
         "tokenizer_sha256", "vocab_size", "document_eod", "new", "old", "judgement", "steps", "stability")  # fmt: skip
_SAME_COMPUTING = ("threads", "world_size", "precision", "compiled")  # of a checkpoint: else its last bits are others
_LASTS = 20  # a mix is lasting that is fed for at least 1/20 of the attempt


def shared_steps(a: Attempt, b: Attempt) -> int:
    """The most optimizer steps over which two attempts are the same training and leave the same records."""
    if any(getattr(a, name) != getattr(b, name) for name in _SAME) or a.steering or b.steering:
        return 0  # what a steered attempt is fed is not known before
    if a.evaluation.subset != b.evaluation.subset or a.schedule.phase(a.tokens) != b.schedule.phase(b.tokens):
        return 0
    samples = a.batches.samples_of(np.arange(a.steps + 1))
    tokens = samples[:-1] * a.sequence_length
    same = (
        (samples[1:] == b.batches.samples_of(np.arange(1, a.steps + 1)))
        & (samples[1:] <= _same_samples(a.segments, b.segments))
        & (np.asarray(a.schedule.lr(tokens)) == np.asarray(b.schedule.lr(tokens)))
    )
    measured_apart = set(a.evaluation.steps) ^ set(b.evaluation.steps)
    return min([int(np.flatnonzero([*~same, True])[0]), *(step - 1 for step in measured_apart)])


def lasting_changes(attempt: Attempt) -> frozenset[int]:
    """The steps behind which another mix is fed, for a while: where candidates of a rung part. A checkpoint is saved
    there."""
    firsts = [*(attempt.batches.steps(segment.first_sample) for segment in attempt.segments), attempt.steps]
    return frozenset(first for first, end in pairwise(firsts[1:]) if (end - first) * _LASTS >= attempt.steps)


def take_over(
    run_folder: Path, attempt: Attempt, header: Record, plan_sha256: str, start: Manifest | None
) -> Record | None:
    """Begin an attempt that has no checkpoint yet from another attempt's, where they share some; the event, or None.

    The metrics are written first: a kill in between leaves an attempt without a checkpoint, which begins anew.
    """
    folder = run_folder / attempt.folder
    if checkpoints_of(folder) or read_rewinds(folder):  # one that went back to its start is trained from there
        return None
    path, donor = max(
        _donors(run_folder, attempt, {name: header[name] for name in _SAME_COMPUTING}),
        key=lambda each: each[1].step,
        default=(None, None),
    )
    if path is None or donor is None:
        return None
    records = read_metrics(path.parent.parent / "metrics.jsonl")[1:]
    kept = [r for r in records if r.get("step", 0) <= donor.step and r.get("event") not in _OWN_EVENTS]
    event: Record = {
        "kind": "event", "step": donor.step, "tokens": donor.attempt_tokens, "event": SHARED, "from": donor.id,
        "text": f"{donor.step:,} steps = {donor.attempt_tokens:,} tokens are not trained again: {donor.id}",
    }  # fmt: skip
    write_metrics(folder / "metrics.jsonl", [header, *kept, event])
    phase = attempt.schedule.phase(donor.attempt_tokens)
    name = f"{attempt.folder}/checkpoints/{checkpoint_name(donor.line_tokens, phase)}"
    mine = replace(
        donor, id=name, rung=attempt.rung, attempt=attempt.sha256, plan=plan_sha256, phase=phase,
        lr=float(attempt.schedule.lr(donor.attempt_tokens)), lr_max=attempt.schedule.lr_max,
        schedule=attempt.schedule.to_dict(), evaluation={},
        source_names={**(start.source_names if start else {}), **{s.id: s.name for s in attempt.sources}},
        allowed=tuple(sorted({*attempt.allow, *(start.allowed if start else ())})),
    )  # fmt: skip
    with files.new_folder(run_folder / name) as aside:
        for file in donor.files:
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(path / file, aside / file)
        write_record(aside, mine)
    return event


def _donors(run_folder: Path, attempt: Attempt, computing: Mapping[str, Any]) -> Iterator[tuple[Path, Manifest]]:
    """Checkpoints of other attempts of the stage that lie within what is shared with them."""
    for other in attempts_of(run_folder, attempt.arm, attempt.stage):
        if other.rung == COOLDOWN or not other.steps or other.folder == run_folder / attempt.folder:
            continue
        steps = min(shared_steps(read_attempt(other.folder), attempt), untouched_steps(other.folder))
        for path in checkpoints_of(other.folder) if steps else []:
            manifest = read_manifest(path)
            alike = all(getattr(manifest, name) == value for name, value in computing.items())
            if alike and 0 < manifest.step <= min(steps, attempt.steps - 1) and deletion_of(path) is None:
                yield path, manifest


def _same_samples(a: Sequence[Segment], b: Sequence[Segment]) -> float:
    """Samples from the first on that two orders have in common."""
    for mine, theirs in zip_longest(a, b):
        if mine != theirs:
            firsts = [each.first_sample for each in (mine, theirs) if each is not None]
            return min(firsts)
    return float("inf")
