"""What the stages of an adopted line were fed, by source: the reference's own order, as far as it is known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.attempt.adopted_stage import Stage
from keepwarm.blend.blendcorpus import BlendCorpus, CorpusFed
from keepwarm.corpora.filelist import Entry, read_filelist
from keepwarm.corpora.indexed import bin_tokens, pair, source_id


@dataclass(frozen=True, slots=True)
class AdoptedSource:
    """One file of a list. A file that is not on this machine is known by its prefix alone, and its windows are not."""

    id: str
    name: str
    windows: int | None  # samples of an epoch


@dataclass(frozen=True, slots=True)
class StageLedger:
    """What a stage was fed up to each of its points, in the order of the points; empty where it is not known."""

    fed: tuple[tuple[CorpusFed, ...], ...]
    sources: Mapping[str, AdoptedSource]  # by prefix
    unknown: tuple[str, ...]


def ledger_of(stage: Stage) -> StageLedger:
    """The ledger of a stage; DataError for a list that the trainer could not have read."""
    entries = read_filelist(stage.spec.list, duplicates=True, zeros=True)
    sequence_length = stage.points[0].sequence_length
    sources = {entry.prefix: _source(entry, sequence_length) for entry in entries}
    absent = sorted({prefix for prefix, source in sources.items() if source.windows is None})
    unknown = [f"epochs of {len(absent):,} files that are not on this machine ({absent[0]} first)"] if absent else []
    if stage.restarted is None:
        why = "what each source gave: it is not known whether the data began anew (declare finetune: true or false)"
        return StageLedger((), sources, (*unknown, why))
    order, doubts = _order(stage, entries)
    begin = stage.first_sample
    fed = tuple(order.fed(begin, point.samples) for point in stage.points)
    estimated = sorted({corpus.name for corpora in fed for corpus in corpora if not _exact(corpus)})
    if estimated:
        doubts.append(f"tokens of each file of {', '.join(estimated)}: expected shares (estimated)")
    return StageLedger(fed, sources, (*unknown, *doubts))


def totals(
    ledger: StageLedger, index: int, before: tuple[Mapping[str, int], Mapping[str, int]], sequence_length: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Cursors in samples and tokens by source id at one point: what was booked at the stage's start, and what came."""
    cursors, tokens = dict(before[0]), dict(before[1])
    for corpus in ledger.fed[index] if ledger.fed else ():
        for file in corpus.files:
            if file.samples:
                source = ledger.sources[file.entry.prefix].id
                cursors[source] = cursors.get(source, 0) + file.samples
                tokens[source] = tokens.get(source, 0) + file.samples * sequence_length
    return cursors, tokens


def fed_facts(ledger: StageLedger, sequence_length: int) -> list[dict[str, Any]]:
    """What a stage was fed up to its last point, as data."""
    return [
        {
            "corpus": corpus.name, "samples": corpus.samples, "tokens": corpus.samples * sequence_length,
            "estimated": not corpus.exact,
            "files": [
                {
                    "prefix": file.entry.prefix, "source": ledger.sources[file.entry.prefix].id, "samples": file.samples,
                    "tokens": file.samples * sequence_length, "estimated": not file.exact,
                    "epochs": _epochs(file.samples, ledger.sources[file.entry.prefix]),
                }
                for file in corpus.files
            ],
        }
        for corpus in (ledger.fed[-1] if ledger.fed else ())
    ]  # fmt: skip


def _epochs(samples: int, source: AdoptedSource) -> float | None:
    return samples / source.windows if source.windows else None


def _exact(corpus: CorpusFed) -> bool:
    return all(file.exact for file in corpus.files)


def _order(stage: Stage, entries: Sequence[Entry]) -> tuple[BlendCorpus, list[str]]:
    """The stage's order of data, and what of it is not known."""
    launches = [point.found.launch for point in stage.points if point.found.launch is not None]
    asked = {line.iterations * line.global_batch_size for line in stage.log.lines if line.global_batch_size}
    built = {each.samples for each in launches if each.samples is not None} or asked
    doubts = []
    if len(built) != 1:
        several = ", ".join(f"{each:,}" for each in sorted(built))
        what = f"its launches were sized for {several}" if built else "neither checkpoints nor logs say"
        doubts.append(f"how many samples the order of data was built for: {what}; tokens of each corpus are estimated")
    first = launches[0] if launches else None
    if any((each.seed, each.shuffled, each.blended) != _shuffle(first) for each in launches):
        doubts.append("in which order a corpus's files were read: its launches had several seeds or flags")
        first = None
    corpora = [entry.corpus for entry in entries]
    if not launches and len(set(corpora)) < len(corpora):
        doubts.append("in which order a corpus's files were read: no checkpoint keeps its launch's seed and flags")
    paths = {each.list_path for each in launches if each.list_path and not Path(each.list_path).is_file()}
    if paths:
        doubts.append(f"whether {stage.spec.list} is the list: the checkpoints name {min(paths)}, which is not here")
    seed, shuffled, blended = _shuffle(first)
    samples = built.pop() if len(built) == 1 else None
    return BlendCorpus(entries, samples, seed, shuffled=shuffled, blended=blended), doubts


def _shuffle(launch: Any) -> tuple[int | None, bool, bool]:
    """Seed and flags of a launch; without one the shuffle is not known."""
    return (launch.seed, launch.shuffled, launch.blended) if launch is not None else (None, True, False)


def _source(entry: Entry, sequence_length: int) -> AdoptedSource:
    name = f"{entry.corpus}:{Path(entry.prefix).name}"
    if not any(path.exists() for path in pair(entry.path)):
        told = hashlib.blake2b(f"prefix {entry.prefix}".encode(), digest_size=8).hexdigest()
        return AdoptedSource(told, name, None)
    windows = max(0, (bin_tokens(entry.path) - 1) // sequence_length)
    return AdoptedSource(source_id(entry.path), name, windows)
