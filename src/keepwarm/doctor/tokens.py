"""Traps of token files: what `keepwarm data verify` finds, each by its kind, and what the reader can't find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from keepwarm.corpora.indexed import Sidecar, pair
from keepwarm.corpora.verify import Report
from keepwarm.doctor.trap import Grade, Sight, trap
from keepwarm.report.verified import what_to_do

_LARGEST_UINT16 = 1 << 16


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A pair as it was verified, and its sidecar."""

    report: Report
    sidecar: Sidecar | None


_KINDS: Mapping[str, tuple[str, Grade, str, str]] = {  # kind of finding: name, grade, seen, harm
    "missing-file": ("half-a-pair", "stops", "a .bin without its .idx, or the reverse", "the trainer stops at start"),
    "header": (
        "index-header", "stops", "an .idx whose header is damaged",
        "the trainer stops, or reads another number of sequences",
    ),
    "lengths": ("index-lengths", "silent", "an .idx with negative lengths", "windows are cut from wrong places"),
    "pointers": (
        "index-pointers", "silent", "an .idx whose pointers are not where its lengths lead", "windows are cut from wrong places",
    ),
    "document-indices": (
        "document-boundaries", "stops", "document boundaries that are not those of the sequences", "Megatron core's reader stops",
    ),
    "uncounted-eod": (
        "off-by-one-index", "silent", "an .idx that counts one token less for each document, as --append-eod writes it",
        "all but the first document start at a wrong place",
    ),
    "shifted": (
        "shifted-documents", "silent", "documents that begin behind the end of the one before",
        "documents are cut at wrong places",
    ),
    "truncated-bin": (
        "cut-off-bin", "lost", "a .bin shorter than its .idx counts", "the trainer dies at the first window behind its end",
    ),
    "trailing-bytes": ("bytes-behind-the-end", "silent", "a .bin longer than its .idx counts", "tokens are never read"),
    "wrong-dtype": ("wrong-dtype", "silent", "an .idx with another dtype than its .bin", "every token is another one"),
    "ids-out-of-range": (
        "ids-out-of-range", "stops", "ids that are not below the vocabulary's size", "a device assert in the embedding",
    ),
    "sidecar": (
        "sidecar-differs", "silent", "a sidecar that was written for other content",
        "the tokenizer or document end is another's",
    ),
    "hashes": ("hashes-differ", "silent", "document hashes of another file", "documents are taken for others"),
}  # fmt: skip


def _of_kind(kind: str) -> Callable[[TokenFile], Iterator[Sight]]:
    def find(file: TokenFile) -> Iterator[Sight]:
        for finding in file.report.findings:
            if finding.kind == kind:
                yield Sight(str(file.report.prefix), finding.what, what_to_do(file.report, finding))

    return find


for _kind, (_name, _grade, _seen, _harm) in _KINDS.items():
    trap(_name, "tokens", _grade, seen=_seen, harm=_harm, source="keepwarm data verify")(_of_kind(_kind))


@trap(
    "uint16-overflow",
    "tokens",
    "silent",
    seen="16-bit tokens of a vocabulary that does not fit",
    harm="ids wrap around without an error: 70,000 becomes 4,464",
    source="reference/megatron.md section 5",
)
def uint16_overflow(file: TokenFile) -> Iterator[Sight]:
    """The vocabulary's size is the sidecar's, or as asked."""
    vocab_size = file.report.vocab_size or (file.sidecar.vocab_size if file.sidecar else None)
    if vocab_size and vocab_size > _LARGEST_UINT16 and file.report.dtype == "uint16":
        yield Sight(
            str(pair(file.report.prefix)[1]),
            f"dtype uint16 holds ids below {_LARGEST_UINT16:,}, the vocabulary has {vocab_size:,}",
            "keepwarm tokenize TEXT --tokenizer FILE -o PREFIX",
        )  # fmt: skip
