"""Where a line stands, and everything an attempt could be fed from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from keepwarm.attempt.model import Attempt, Optimizer
from keepwarm.blend.buffer import BufferVersion, buffer_sources
from keepwarm.blend.stream import Stream
from keepwarm.corpora.indexed import source_id
from keepwarm.corpora.source import Source
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan

if TYPE_CHECKING:  # all of tokenization hangs on it, and `keepwarm plan` makes none
    from keepwarm.corpora.prepare import Corpus, Prepared

BASE, COOLDOWN = "base", "cooldown"
COOKBOOK = "cookbook"  # the arm that follows the cookbook; the others are controls
ADOPTED = "adopted"  # the rung of what was trained by hand
BRANCHES = "branches"  # not a line of its own: cooldowns and averages that somebody asked for


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line of accepted stages stands: its last checkpoint and all that the next stage may draw on."""

    arm: str
    end: Manifest
    begin: Manifest | None  # what the stage that made `end` started from: end - begin = its mix, as recorded
    # D_0 first, then what is only measured: each corpus with the checkpoint that had just been taught it, or knew it
    taught: tuple[tuple[str, Manifest], ...]
    buffer: BufferVersion | None = None
    attempts: frozenset[str] = frozenset()  # SHA-256 of the accepted attempts that the line is made of


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a mix with the sources that play it, by relative weight."""

    name: str
    share: Fraction
    members: Mapping[str, Fraction]


Mixes = Sequence[tuple[int, Sequence[Role]]]  # from which step on, which mix


@dataclass(frozen=True, slots=True)
class Feed:
    """Everything an attempt could be fed from: corpora, and by id every source with the corpus it belongs to."""

    tokenizer: Tokenizer
    corpora: Mapping[str, Corpus]
    sources: Mapping[str, tuple[Source, str]]


def feed_of(prepared: Prepared, versions: Sequence[BufferVersion]) -> Feed:
    """All sources of the corpora and of every buffer version."""
    corpora = prepared.corpora
    known = {source.id: (source, corpus.name) for corpus in corpora.values() for source in corpus.sources}
    for version in versions:
        for entry, source in zip(version.entries, buffer_sources(version), strict=True):
            known[source.id] = (source, entry.corpus)
    return Feed(prepared.tokenizer, corpora, known)


def identity(plan: Plan, feed: Feed) -> dict[str, Any]:
    """What must be the same in every checkpoint of a line (guard 5), by the manifest's names."""
    return {
        "tokenizer_sha256": feed.tokenizer.sha256,
        "vocab_size": feed.tokenizer.vocab_size,
        "sequence_length": plan.sequence_length,
        "document_mask": plan.document_mask,
        "optimizer": Optimizer.of(plan.optimizer).to_dict(),
        "holdout": {name: source_id(corpus.holdout_prefix) for name, corpus in feed.corpora.items()},
    }  # fmt: skip


def cursors_at(start: Manifest, sequence_length: int) -> dict[str, int]:
    """Samples of `sequence_length` tokens that the line has consumed by source; rounded up, so that none is fed again.

    A checkpoint of another length (which guard 5 refuses, unless it is allowed by name) has counted other windows: the
    tokens behind it and the epochs stay right, single windows of the epoch it is in may come again or be passed over.
    """
    before = start.sequence_length or sequence_length
    return {source: -(-samples * before // sequence_length) for source, samples in start.cursors.items()}


def open_stream(attempt: Attempt, feed: Feed) -> Stream:
    """The attempt's order of data."""
    needed = {source.id for source in attempt.sources}
    sources = {name: source for name, (source, _) in feed.sources.items() if name in needed}
    return Stream(attempt.segments, sources, attempt.seed, attempt.sequence_length)


def threads_for(plan: Plan, stage: str) -> int:
    """CPU threads of an attempt: all for the base, and shared evenly with what may run beside a stage: the control arms,
    and the candidates of a search side by side.

    The same on every run of a plan, whatever is done already, for the last bits of the weights depend on it.
    """
    threads = plan.run.threads or os.cpu_count() or 1
    return threads if stage == BASE else max(1, threads // (plan.search.side_by_side + len(plan.control)))


def recorded_mix(end: Manifest, begin: Manifest | None, d0: Mapping[str, Fraction]) -> Mapping[str, Fraction]:
    """The sources that were really fed between two checkpoints, weighed by tokens; D_0's where there is no record."""
    before = begin.source_tokens if begin else {}
    fed = {source: tokens - before.get(source, 0) for source, tokens in end.source_tokens.items()}
    return {source: Fraction(tokens) for source, tokens in fed.items() if tokens > 0} or d0
