"""`keepwarm data overlap`: held-out text that occurs in training corpora."""

from __future__ import annotations

import json as json_text
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def overlap(
    holdout: Path,
    /,
    *prefixes: Path,
    ngram: int = 13,
    threshold: float = 0.5,
    method: Literal["ngram", "minhash"] = "ngram",
    exclude: Path | None = None,
    tokenizer: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Find held-out text in training corpora: `keepwarm data overlap holdout/web data/web --exclude web.exclude`.

    It compares tokens, so all files must come from one tokenizer. It changes no token file, and exits 0 also when
    something is found. A run leaves its held-out documents out when it reads; they are in the corpus's file all the
    same, so they are found here.

    Parameters
    ----------
    holdout
        PREFIX of the held-out text's .bin and .idx.
    prefixes
        PREFIX of each corpus's token file.
    ngram
        Tokens in an n-gram.
    threshold
        A held-out document is contaminated from this share of its n-grams on (ngram), or this similarity (minhash).
    method
        ngram looks up every n-gram; minhash estimates how alike whole documents are, and does not find a piece inside a
        long document (needs keepwarm[dedupe]).
    exclude
        Write a list of the corpus documents to leave out of training to this file.
    tokenizer
        A tokenizer.json to show text with.
    as_json
        Print JSON.
    """
    from keepwarm.corpora.exclusions import of_documents, refuse_taken, write_exclusions
    from keepwarm.corpora.overlap import find_overlap
    from keepwarm.corpora.texts import refuse_tokenizer
    from keepwarm.corpora.tokenizer import load_tokenizer
    from keepwarm.errors import KeepwarmError
    from keepwarm.report.overlapping import advice, facts, lines, reason
    from keepwarm.report.progress import progress_bar

    if not prefixes:
        fix = f"keepwarm data overlap {holdout} PREFIX ..."
        raise KeepwarmError("no corpus is named", "there is nothing to compare the holdout with", fix)
    loaded = load_tokenizer(tokenizer) if tokenizer is not None else None
    if loaded is not None:
        refuse_tokenizer(loaded.path, loaded.sha256, [holdout, *prefixes])
    if exclude is not None:
        why = reason(holdout, prefixes, method, ngram, threshold)
        refuse_taken(exclude, why=why)  # what can't be written is refused before the work, not after
        _refuse_unwritable(exclude)
        for prefix in prefixes:
            of_documents(prefix, (), exclude)
    with progress_bar("reading") as (_, progress):
        found = find_overlap(holdout, prefixes, n=ngram, threshold=threshold, method=method, progress=progress)
    print(json_text.dumps(facts(found), ensure_ascii=False) if as_json else "\n".join(lines(found, loaded)))
    if exclude is not None:
        left_out = [
            each for corpus in found.corpora for each in of_documents(corpus.prefix, corpus.excluded.tolist(), exclude)
        ]
        write_exclusions(exclude, left_out, why=why)
    if not as_json and (said := list(advice(found, exclude))):
        print("\n" + "\n".join(said))
    return 0


def _refuse_unwritable(path: Path) -> None:
    """KeepwarmError if no file can be made where `path` is to be."""
    from keepwarm.errors import KeepwarmError

    folder = next(each for each in path.absolute().parents if each.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise KeepwarmError(
            f"--exclude {path}: no file can be made in {folder} ({(error.strerror or str(error)).lower()})",
            "the list could not be written after the work",
            f"--exclude {path.name}",
        ) from None
