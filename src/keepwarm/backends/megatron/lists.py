"""What a launch's list names: views of the token files, or, where the mix changes on the way, the samples themselves.

Both are laid out so that the trainer, in its own shuffled order, reads what the attempt feeds (views.py, materialized.py).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from keepwarm.attempt.line import Feed
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.materialized import MaterializedList, materialized_list, write_materialized
from keepwarm.backends.megatron.view_files import write_views
from keepwarm.backends.megatron.views import DataList, list_of
from keepwarm.errors import PlanError

LIST = "data-list.txt"
VIEWS, SAMPLES = "views", "samples"  # in a launch's folder
Data: TypeAlias = DataList | MaterializedList


def trainer_seed(attempt: Attempt) -> int:
    """The trainer's --seed, which orders its data: it refuses 0."""
    return attempt.seed + 1


def data_of(attempt: Attempt, folder: Path, begin: int, end: int, skipped: int) -> Data:
    """The list of a launch in `folder` that feeds the attempt's steps behind `begin` up to `end`, behind `skipped`
    iterations that its run is built for and passes over.

    PlanError where a whole corpus of the mix would come to no sample.
    """
    batch, seed = attempt.global_batch_size, trainer_seed(attempt)
    first, last = attempt.batches.samples(begin), attempt.batches.samples(end)
    passed, built = skipped * batch, (skipped + end - begin) * batch
    mixes = [segment for segment in attempt.segments if segment.first_sample < last]
    if mixes[-1].first_sample > first:
        return materialized_list(
            attempt, folder / SAMPLES, first_sample=first, last_sample=last, skipped_samples=passed, built_samples=built,
            seed=seed,
        )  # fmt: skip
    found = list_of(
        attempt, folder / VIEWS, first_sample=first, last_sample=last, skipped_samples=passed, built_samples=built,
        seed=seed,
    )  # fmt: skip
    _refuse_vanished(attempt, found, mixes[-1].mixture.source_ids, last - first)
    return found


def write_data(attempt: Attempt, feed: Feed, data: Data) -> None:
    """Write what the list names; what is there must be the same."""
    if isinstance(data, DataList):
        write_views(attempt, feed, data)
    else:
        write_materialized(attempt, feed, data)


def _refuse_vanished(attempt: Attempt, data: DataList, fed: Collection[str], samples: int) -> None:
    """Single files of a corpus may come to nothing, as natively; a part of the mix may not."""
    named = {view.source_id for view in data.views}
    whole = {(source.role, source.corpus) for source in attempt.sources if source.id in fed}
    missing = sorted(whole - {(source.role, source.corpus) for source in attempt.sources if source.id in named})
    if missing:
        words = ", ".join(f"{corpus} ({role})" for role, corpus in missing)
        raise PlanError(
            f"{LIST}: no sample would come from {words}, of {samples:,}",
            "the mix would lack what it says it has",
            "give the stage more tokens, or leave it out of the mix",
        )
