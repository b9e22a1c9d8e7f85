"""What a file list would be fed, before any run: every file's tokens, epochs and repeats, exact, from sizes alone.

In keepwarm's order the ledger of a stream that begins with the list says it. In the reference's, its greedy counts do
(greedy.py). Nothing is read but each file's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

import numpy as np

from keepwarm.blend.caps import reweighted, room_samples
from keepwarm.blend.greedy import Greedy
from keepwarm.blend.ledger import ledger
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, Stream
from keepwarm.corpora.filelist import Entry
from keepwarm.corpora.indexed import bin_tokens
from keepwarm.corpora.source import Source
from keepwarm.errors import PlanError


@dataclass(frozen=True, slots=True)
class FedFile:
    """One line of the list."""

    entry: Entry
    share: Fraction  # of all tokens
    tokens: int  # that the file holds
    windows: int
    samples: int
    repeated_samples: int

    @property
    def epochs(self) -> Fraction:
        """How often its windows are read."""
        return Fraction(self.samples, self.windows)


def preview(
    entries: Sequence[Entry], samples: int, sequence_length: int, cap: Fraction | None = None
) -> tuple[FedFile, ...]:
    """What each file gives of so many samples, in keepwarm's order.

    With `cap`, files that would be read more often give less, and the others of their corpus more. DataError for a
    file that can't be read or holds no window, PlanError for a share below 2^-32.
    """
    sources = {entry.prefix: _source(entry) for entry in entries}
    corpora: dict[str, dict[str, Fraction]] = {}
    for entry in entries:
        corpora.setdefault(entry.corpus, {})[entry.prefix] = entry.weight
    total = sum(entry.weight for entry in entries)
    parts = [(sum(members.values(), Fraction(0)) / total, members) for members in corpora.values()]
    if cap is not None:
        room = {
            name: room_samples(cap, source.windows(sequence_length), 0, pieces=1) for name, source in sources.items()
        }
        (lowered,) = reweighted([(samples, parts)], room)
        parts = [(share, dict(members)) for (share, _), members in zip(parts, lowered, strict=True)]
    mixture = combine(parts)
    rows = {row.source_id: row for row in ledger(Stream([Segment(0, mixture)], sources, 0, sequence_length), samples)}
    found = []
    for entry in entries:
        source, row = sources[entry.prefix], rows.get(entry.prefix)  # none: a cap left it nothing
        fed, repeated = (row.samples, row.repeated_samples) if row else (0, 0)
        windows = source.windows(sequence_length)
        found.append(FedFile(entry, mixture.share(entry.prefix), source.tokens, windows, fed, repeated))
    return tuple(found)


def preview_greedy(entries: Sequence[Entry], samples: int, sequence_length: int) -> tuple[FedFile, ...]:
    """The same in the reference's greedy order over the lines of the list."""
    weights = [float(entry.text) for entry in entries]
    whole = sum(weights)
    counts = Greedy([weight / whole for weight in weights]).counts(samples)
    total = sum(entry.weight for entry in entries)
    found = []
    for entry, fed in zip(entries, counts, strict=True):
        source = _source(entry)
        windows = max(1, source.windows(sequence_length))
        found.append(FedFile(entry, Fraction(entry.weight / total), source.tokens, windows, fed, max(0, fed - windows)))
    return tuple(found)


def over(rows: Sequence[FedFile], cap: Fraction) -> tuple[FedFile, ...]:
    """The files read more often than `cap`, to the window, the most first."""
    return tuple(sorted((row for row in rows if row.epochs > cap), key=lambda row: -row.epochs))


def refuse_over(rows: Sequence[FedFile], cap: Fraction, *, of: int, reweighted: bool) -> NoReturn:
    """PlanError about `rows`, the files over the cap, the most first, among `of` files."""
    worst = rows[0]
    even_so = f"; its corpus {worst.entry.corpus} holds too little as a whole" if reweighted else ""
    more = "" if reweighted else ", or let the others of its corpus give more: --over reweight"
    raise PlanError(
        f"{worst.entry.place}: {worst.entry.prefix} would be read {float(worst.epochs):.2f} times, more than "
        f"{float(cap):g}, as {len(rows):,} of {of:,} files are{even_so}",
        "repeated text is memorised, not learned",
        f"lower its weight, add files to its corpus, ask fewer tokens{more}",
    )


def whole_samples(tokens: int, sequence_length: int) -> int:
    """Samples that feed at least `tokens`."""
    return -(-tokens // sequence_length)


def _source(entry: Entry) -> Source:
    tokens = bin_tokens(entry.path)
    return Source(entry.prefix, entry.prefix, entry.path, np.array([[0, tokens]]))
