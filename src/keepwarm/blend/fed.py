"""Which parts of which documents a stage was fed: arithmetic on the positions that it took a source through.

Positions put through the source's permutation are windows; windows are spans of tokens; spans cut at the documents'
borders are parts. Nothing is recorded while training, so nothing can be lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keepwarm.blend.permutation import permute, window_key
from keepwarm.corpora.indexed import open_indexed
from keepwarm.corpora.source import Source

PROVENANCE = np.dtype(
    [
        ("source", "<i4"),  # number in the entry's sources
        ("document", "<i8"),  # sequence number in the source
        ("first_token", "<i8"),  # position in the source's .bin
        ("tokens", "<i8"),  # copied from there; an EOD is added where the part has none
        ("order", "<u8"),  # the smallest are kept first
    ]
)
FedRange = tuple[Source, int, int]  # a source and the positions [from, to) that the stage took it through


def fed_windows(
    source: Source, first_position: int, last_position: int, seed: int, sequence_length: int
) -> NDArray[np.bool_]:
    """Which windows of `source`, (windows,), the positions [first_position, last_position) of a stream read."""
    length = source.windows(sequence_length)
    fed = np.zeros(length, dtype=np.bool_)
    if last_position - first_position >= length:
        fed[:] = True
        return fed
    while first_position < last_position:
        epoch, start = divmod(first_position, length)
        stop = min(length, start + last_position - first_position)
        fed[permute(np.arange(start, stop), length, window_key(seed, source.id, epoch))] = True
        first_position += stop - start
    return fed


def fed_documents(source: Source, fed: NDArray[np.bool_], sequence_length: int) -> NDArray[np.void]:
    """The parts of documents that lie in the windows `fed` of `source`: (parts,) of PROVENANCE, in file order.

    A document has a part for each unbroken run of its tokens that was fed; source and order are left 0. Tokens outside
    `source.kept` (held-out documents) are in no window and so in no part.
    """
    indexed = open_indexed(source.prefix)
    starts = indexed.pointers // indexed.dtype.itemsize
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    stops = starts + indexed.lengths[order]
    spans = _real_spans(source, fed, sequence_length)
    first = np.searchsorted(stops, spans[:, 0], side="right")
    counts = np.maximum(0, np.searchsorted(starts, spans[:, 1], side="left") - first)
    of_span = np.repeat(np.arange(len(spans)), counts)
    document = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[of_span]
    parts = np.zeros(len(document), dtype=PROVENANCE)
    parts["document"] = order[document]
    parts["first_token"] = np.maximum(starts[document], spans[of_span, 0])
    parts["tokens"] = np.minimum(stops[document], spans[of_span, 1]) - parts["first_token"]
    return parts[parts["tokens"] > 0]


def _real_spans(source: Source, fed: NDArray[np.bool_], sequence_length: int) -> NDArray[np.int64]:
    """Token positions [start, stop) in `.bin` that the windows cover, ascending, disjoint, unbroken: (spans, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], fed, [False]]).astype(np.int8))).reshape(-1, 2)
    virtual = edges * sequence_length + np.array([0, 1])  # runs of windows; the last window's last token is in
    ends = np.cumsum(source.kept[:, 1] - source.kept[:, 0])
    # cut the virtual runs where the kept spans join, then move each piece to where its kept span lies
    cuts = np.unique(np.concatenate([virtual.reshape(-1), ends]))
    start, stop = cuts[:-1], cuts[1:]
    run = np.searchsorted(virtual[:, 0], start, side="right") - 1
    inside = (run >= 0) & (start < np.append(virtual[:, 1], 0)[run])
    start, stop = start[inside], stop[inside]
    span = np.searchsorted(ends, start, side="right")
    shift = source.kept[span, 1] - ends[span]
    start, stop = start + shift, stop + shift
    apart = np.append(True, start[1:] != stop[:-1])[: len(start)]
    return np.stack([start[apart], stop[np.append(apart[1:], True)[: len(stop)]]], axis=1)
