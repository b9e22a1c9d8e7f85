"""What a file list feeds, by corpus and by file, for `keepwarm data blend` and `keepwarm mix`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from keepwarm.blend.preview import FedFile
from keepwarm.corpora.indexed import bin_tokens
from keepwarm.corpora.mixing import Mixed
from keepwarm.errors import DataError
from keepwarm.report.table import aligned
from keepwarm.units import format_share

_SHOWN = 20  # files in the table; JSON has all
_CORPUS_HEAD = ("corpus", "files", "share", "tokens", "fed", "epochs", "most in a file", "repeated")
_FILE_HEAD = ("file", "corpus", "share", "tokens", "fed", "epochs", "repeated")


def facts(rows: Sequence[FedFile], asked_tokens: int, sequence_length: int, order: str) -> dict[str, Any]:
    """All of it as data."""
    samples = sum(row.samples for row in rows)
    return {
        "asked_tokens": asked_tokens,
        "fed_tokens": samples * sequence_length,
        "samples": samples,
        "sequence_length": sequence_length,
        "order": order,
        "corpora": [_corpus(name, mine, sequence_length) for name, mine in _by_corpus(rows).items()],
        "files": [_file(row, sequence_length, samples) for row in rows],
    }


def lines(found: dict[str, Any], *, capped: bool) -> Iterator[str]:
    """`facts` for a terminal: corpora, then the files that are read most often."""
    yield (
        f"{found['asked_tokens']:,} tokens = {found['samples']:,} samples of {found['sequence_length']:,}, "
        f"{found['order']} order"
    )
    yield ""
    yield from aligned([_CORPUS_HEAD, *map(_corpus_row, found["corpora"])], right=range(1, 8))
    files = sorted(found["files"], key=lambda each: -each["epochs"])
    yield ""
    yield from aligned([_FILE_HEAD, *map(_file_row, files[:_SHOWN])], right=range(2, 7))
    if len(files) > _SHOWN:
        yield f"... and {len(files) - _SHOWN:,} files that are read less often (all of them: --json)"
    often = [each for each in files if each["epochs"] > 1]
    if often:
        yield ""
        are = "file is" if len(often) == 1 else "files are"
        yield (
            f"{len(often):,} of {len(files):,} {are} read more than once, {often[0]['file']} {often[0]['epochs']:.2f} times"
            + ("" if capped else "; a cap: --max-epochs 4")
        )


def lowered(before: Sequence[FedFile], after: Sequence[FedFile]) -> Iterator[str]:
    """Which files a cap gives less than the list asks."""
    for one, other in zip(before, after, strict=True):
        if other.share < one.share and other.samples < one.samples:
            yield (
                f"{one.entry.prefix}: {format_share(other.share)} instead of {format_share(one.share)} of the tokens, "
                f"{float(other.epochs):.2f} epochs instead of {float(one.epochs):.2f}"
            )


def mix_summary(mixed: Sequence[Mixed], tokens: int | None) -> Iterator[str]:
    """What `keepwarm mix` made: each corpus's share and size and, of a budget in `tokens`, how often it is read."""
    corpora: dict[str, list[tuple[Fraction, int | None]]] = {}
    for each in mixed:
        corpora.setdefault(each.entry.corpus, []).append((each.weight, _tokens(each.entry.path)))
    columns = 7 if tokens else 4
    rows = [_CORPUS_HEAD[:columns], *(_mixed_row(name, files, tokens)[:columns] for name, files in corpora.items())]
    yield from aligned(rows, right=range(1, 7))
    if any("-" in row for row in rows):
        yield "-: a .bin/.idx of this corpus is not to be found here, so its tokens are not known"


def _mixed_row(name: str, files: Sequence[tuple[Fraction, int | None]], tokens: int | None) -> tuple[str, ...]:
    share, budget = sum((weight for weight, _ in files), Fraction(0)), tokens or 0
    head = (name, f"{len(files):,}", format_share(share))
    fed, sizes = f"{round(share * budget):,}", [size for _, size in files if size]
    if len(sizes) < len(files):
        return (*head, "-", fed, "-", "-")
    most = max(weight * budget / size for (weight, _), size in zip(files, sizes, strict=True))
    return (*head, f"{sum(sizes):,}", fed, f"{float(share * budget / sum(sizes)):.2f}", f"{float(most):.2f}")


def _tokens(prefix: Path) -> int | None:
    try:
        return bin_tokens(prefix)
    except DataError:
        return None


def _by_corpus(rows: Sequence[FedFile]) -> dict[str, list[FedFile]]:
    found: dict[str, list[FedFile]] = {}
    for row in rows:
        found.setdefault(row.entry.corpus, []).append(row)
    return found


def _corpus(name: str, rows: Sequence[FedFile], sequence_length: int) -> dict[str, Any]:
    samples, windows = sum(row.samples for row in rows), sum(row.windows for row in rows)
    return {
        "corpus": name,
        "files": len(rows),
        "share": float(sum(row.share for row in rows)),
        "tokens": sum(row.tokens for row in rows),
        "fed_tokens": samples * sequence_length,
        "epochs": samples / windows,
        "most_epochs_in_a_file": float(max(row.epochs for row in rows)),
        "repeated_tokens": sum(row.repeated_samples for row in rows) * sequence_length,
    }


def _file(row: FedFile, sequence_length: int, samples: int) -> dict[str, Any]:
    return {
        "file": row.entry.prefix,
        "corpus": row.entry.corpus,
        "share": float(row.share),
        "exact_share": str(row.share),
        "tokens": row.tokens,
        "asked_tokens": float(row.share * samples * sequence_length),
        "fed_tokens": row.samples * sequence_length,
        "samples": row.samples,
        "windows": row.windows,
        "epochs": float(row.epochs),
        "repeated_tokens": row.repeated_samples * sequence_length,
    }


def _corpus_row(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["corpus"], f"{each['files']:,}", format_share(each["share"]), f"{each['tokens']:,}",
        f"{each['fed_tokens']:,}", f"{each['epochs']:.2f}", f"{each['most_epochs_in_a_file']:.2f}",
        f"{each['repeated_tokens']:,}",
    )  # fmt: skip


def _file_row(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["file"], each["corpus"], format_share(each["share"]), f"{each['tokens']:,}", f"{each['fed_tokens']:,}",
        f"{each['epochs']:.2f}", f"{each['repeated_tokens']:,}",
    )  # fmt: skip
