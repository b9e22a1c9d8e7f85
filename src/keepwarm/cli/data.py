"""`keepwarm data`: look into token files."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

data = App(name="data", help="Look into .bin/.idx token files.")


@data.command
def show(
    prefix: Path,
    /,
    *,
    document: int | None = None,
    tokenizer: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what a token file holds, or one of its documents.

    Parameters
    ----------
    prefix
        PREFIX of PREFIX.bin and PREFIX.idx.
    document
        Show the tokens of this document, counted from 0.
    tokenizer
        A tokenizer.json to show the document's text with.
    as_json
        Print JSON.
    """
    from keepwarm.corpora.indexed import open_indexed, read_sidecar
    from keepwarm.errors import KeepwarmError

    opened = open_indexed(prefix)
    count = opened.n_documents
    if document is not None and not 0 <= document < count:
        raise KeepwarmError(
            f"--document {document}: {opened.prefix} has {count:,} documents",
            "they are counted from 0",
            f"--document {max(0, count - 1)}",
        )
    sidecar = read_sidecar(prefix)
    facts: dict[str, object] = {
        "documents": count,
        "tokens": opened.n_tokens if document is None else opened.document(document).tolist(),
        "dtype": opened.dtype.name,
        "sequences": opened.n_sequences,
        "tokenizer_sha256": sidecar.tokenizer_sha256 if sidecar else None,
        "text_bytes": sidecar.text_bytes if sidecar else None,
    }
    if document is not None and tokenizer is not None:
        from keepwarm.corpora.tokenizer import load_tokenizer

        loaded = load_tokenizer(tokenizer)
        facts["text"] = loaded.backend.decode(opened.document(document).tolist(), skip_special_tokens=False)
    if as_json:
        print(json_text.dumps(facts, ensure_ascii=False))
        return 0
    for key, value in facts.items():
        if value is not None:
            print(f"{key:17} {value:,}" if isinstance(value, int) else f"{key:17} {value}")
    return 0
