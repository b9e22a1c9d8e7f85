"""Views on disk: for each line of the list NAME.idx, laid out for the trainer, and NAME.bin, a link to the source's."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.attempt.line import Feed
from keepwarm.attempt.model import Attempt
from keepwarm.backends.megatron.views import DataList, Reading, View
from keepwarm.blend.trainer_order import FEWEST_TRAINING, drawn, shuffled_file, validating_for
from keepwarm.blend.turns import Turns
from keepwarm.corpora.exclusions import joined
from keepwarm.corpora.indexed import index_bytes, pair, read_header
from keepwarm.corpora.names import link, view_path
from keepwarm.corpora.source import Source
from keepwarm.errors import DataError, KeepwarmError

_BLOCK_WINDOWS = 1 << 20
_SPARE_WINDOWS = 8  # beside those that validate, so that none of these has to be a short piece
Runs = NDArray[np.int64]  # (runs, 2): first token in `.bin` and number of tokens


def write_views(attempt: Attempt, feed: Feed, data: DataList) -> None:
    """Write the folder of a list's views whole; one that is there and holds the same stays.

    Raises DataError for a source that is gone or has no window, KeepwarmError if the folder holds other views.
    """
    sources = [_source(feed, view, attempt.sequence_length) for view in data.views]
    if data.folder.exists():
        return _refuse_other(attempt, data)
    with files.new_folder(data.folder) as aside:
        for view, source in zip(data.views, sources, strict=True):
            binary, index = pair(aside / view.corpus)
            files.write_json(view_path(binary), view.to_json(attempt, data.reading))
            link(pair(source.prefix)[0], binary)
            files.write_bytes(index, view_index(attempt, view, source, data.reading))


def view_index(attempt: Attempt, view: View, source: Source, reading: Reading) -> bytes:
    """The content of a view's `.idx`: its training part laid out for the trainer, then what validates."""
    windows = max(view.given + 1, FEWEST_TRAINING)
    runs, counts = _runs_of(attempt, source, view.first_position, windows)
    sequence, window = shuffled_file(len(runs), windows, reading.seed)
    row = _row(view, window, reading)
    first, width = (np.cumsum(counts) - counts)[row], counts[row]
    in_row = np.repeat(first - (np.cumsum(width) - width), width) + np.arange(len(runs))
    training = np.empty_like(runs)
    training[sequence] = runs[in_row]
    count = validating_for(len(runs))
    behind, _ = _runs_of(attempt, source, view.first_position + windows, count + _SPARE_WINDOWS)
    longest = np.sort(np.argsort(-behind[:, 1], kind="stable")[:count])
    return runs_index(read_header(source.prefix).dtype, np.concatenate([training, behind[longest]]))


def runs_index(dtype: np.dtype[np.generic], runs: Runs) -> bytes:
    """An `.idx` whose sequences, each a document, are these runs of a `.bin`."""
    pointers = runs[:, 0] * dtype.itemsize
    return index_bytes(dtype, runs[:, 1], np.arange(len(runs) + 1), pointers)


def _row(view: View, window: NDArray[np.int64], reading: Reading) -> NDArray[np.int64]:
    """(windows,): which of the view's windows, counted in keepwarm's order, stands at each place of the trainer's row.

    `window` (windows - 1,): the place at which the file's sample of each number begins.
    """
    _, number = drawn([view.given], reading.seed)
    row = np.full(len(window) + 1, -1)
    row[window[number[view.skipped : view.skipped + view.windows]]] = np.arange(view.windows)
    row[row < 0] = np.arange(view.windows, len(row))
    return row


def _runs_of(attempt: Attempt, source: Source, first_position: int, windows: int) -> tuple[Runs, NDArray[np.int64]]:
    """What the windows from a position of the source's order on are made of, in order, and of how many runs each is."""
    length = attempt.sequence_length
    turns = Turns((source.id,), np.array([source.windows(length)]), attempt.seed)
    kept = joined(source.kept)
    found = []
    for first in range(first_position, first_position + windows, _BLOCK_WINDOWS):
        positions = np.arange(first, min(first + _BLOCK_WINDOWS, first_position + windows))
        _, window = turns.locate(np.zeros_like(positions), positions)
        found.append(_runs(window * length, length, kept))
    return np.concatenate([runs for runs, _ in found]), np.concatenate([counts for _, counts in found])


def _runs(first: NDArray[np.int64], length: int, kept: NDArray[np.int64]) -> tuple[Runs, NDArray[np.int64]]:
    """`_runs_of` windows of `length` tokens that begin at the places `first` of the `kept` spans in a row."""
    ends = np.cumsum(kept[:, 1] - kept[:, 0])
    span = np.searchsorted(ends, first, side="right")
    counts = np.searchsorted(ends, first + length - 1, side="right") - span + 1
    window = np.repeat(np.arange(len(first)), counts)
    span = span[window] + np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.maximum(first[window], np.append(0, ends)[span])
    stop = np.minimum(first[window] + length, ends[span])
    return np.stack([start + (kept[:, 1] - ends)[span], stop - start], axis=1), counts


def _source(feed: Feed, view: View, sequence_length: int) -> Source:
    """The source of a view, as it is now."""
    if view.source_id not in feed.sources:
        raise DataError(
            f"source {view.source_id} ({view.name}) was not opened",
            "its share of the samples would have nothing to read",
            "restore its token file, or leave the source out of the mix",
        )
    source, _ = feed.sources[view.source_id]
    if not source.windows(sequence_length):
        raise DataError(
            f"{source.prefix}: has {source.tokens} tokens to train on, fewer than one sample of {sequence_length} + 1",
            "a source without a whole window cannot be fed its share of the mix",
            "tokenize it together with more text, lower sequence_length, or leave it out of the mix",
        )
    return source


def _refuse_other(attempt: Attempt, data: DataList) -> None:
    for view in data.views:
        path = view_path(view.prefix)
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != view.to_json(attempt, data.reading):
            raise KeepwarmError(
                f"{data.folder}: holds other views ({path.name})",
                "a trainer that is at work there would read other data in the middle of its run",
                f"end what was launched from it, then: rm -r {data.folder}",
            )
