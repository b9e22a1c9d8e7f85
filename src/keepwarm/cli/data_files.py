"""`keepwarm data verify`, `merge` and `split`: whole token files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def verify(
    *prefixes: Path,
    vocab_size: int | None = None,
    eod: int | None = None,
    repair: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Say all that is wrong with token files, and what to do. Exits 0 if all is well, 1 if something was found.

    Each .bin is read once, and again where documents seem to be cut at wrong places. Found are: document ends that the
    index does not count (the reference tokenizer's --append-eod), documents that are shifted because some are not
    counted, truncated files, a wrong dtype, ids out of range, damaged headers, pointers and document boundaries, bytes
    that belong to no document, and a sidecar or hashes that belong to other content.

    Parameters
    ----------
    prefixes
        PREFIX of PREFIX.bin and PREFIX.idx, or either file.
    vocab_size
        Ids from this one on are wrong; by default what the sidecar says.
    eod
        The token that ends a document; by default the sidecar's, else the one that ends every document.
    repair
        Write PREFIX.repaired.idx where a new index mends what was found, and a link to the .bin. The originals stay.
    as_json
        Print one line of JSON for each file.
    """
    from keepwarm.corpora.verify import named
    from keepwarm.corpora.verify import repair as write_repaired
    from keepwarm.corpora.verify import verify as verify_pair
    from keepwarm.report.progress import progress_bar
    from keepwarm.report.verified import as_json as json_line
    from keepwarm.report.verified import block, repaired

    well = True
    for prefix in named(prefixes):
        with progress_bar(f"reading {prefix}") as (_, progress):
            report = verify_pair(prefix, vocab_size=vocab_size, eod=eod, progress=progress)
        well &= report.ok
        if not as_json:
            print(block(report), flush=True)
        target = write_repaired(prefix, report) if repair and report.fix is not None else None
        if as_json:
            print(json_line(report, target), flush=True)
        elif target is not None:
            print(repaired(report, target), flush=True)
        elif repair and not report.ok:
            print("  not repaired: no new index mends what was found", flush=True)
    return 0 if well else 1


def merge(*prefixes: Path, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> int:
    """Write the documents of several token files, one after the other, as one. They must have the same dtype.

    Parameters
    ----------
    prefixes
        PREFIX of PREFIX.bin and PREFIX.idx, two or more, in the order that the documents shall have.
    output
        Prefix of the files to write.
    """
    from keepwarm.corpora.reindex import merge as merge_pairs
    from keepwarm.report.progress import progress_bar

    with progress_bar("merging") as (_, progress):
        written = merge_pairs(prefixes, output, progress=progress)
    print(f"{written.prefix}: {written.documents:,} documents, {written.tokens:,} tokens")
    for note in written.notes:
        print(f"  {note}")
    return 0


def split(prefix: Path, /, *, parts: int, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> int:
    """Write the documents of a token file as several, in their order, with token counts as equal as whole documents allow.

    Stopped by a kill, the same command goes on: parts that are there already, byte for byte, are kept.

    Parameters
    ----------
    prefix
        PREFIX of PREFIX.bin and PREFIX.idx.
    parts
        How many files: at most as many as there are documents.
    output
        They are called OUTPUT-00000, OUTPUT-00001 and so on.
    """
    from keepwarm.corpora.reindex import split as split_pair
    from keepwarm.report.progress import progress_bar

    with progress_bar("splitting") as (_, progress):
        made = split_pair(prefix, parts, output, progress=progress)
    for written in made:
        print(f"{written.prefix}: {written.documents:,} documents, {written.tokens:,} tokens")
    return 0
