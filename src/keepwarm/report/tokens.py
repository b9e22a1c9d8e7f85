"""What a token file holds, or one of its documents, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keepwarm.corpora.indexed import open_indexed, read_sidecar
from keepwarm.errors import KeepwarmError


def describe(prefix: Path, document: int | None = None, tokenizer: Path | None = None) -> dict[str, Any]:
    """Facts about the file; with `document` its token ids in place of their number, and its text with `tokenizer`."""
    opened, sidecar = open_indexed(prefix), read_sidecar(prefix)
    if document is not None and not 0 <= document < opened.n_documents:
        raise KeepwarmError(
            f"--document {document}: {opened.prefix} has {opened.n_documents:,} documents",
            "they are counted from 0",
            f"--document {max(0, opened.n_documents - 1)}",
        )
    ids = None if document is None else opened.document(document).tolist()
    facts: dict[str, Any] = {
        "documents": opened.n_documents,
        "tokens": opened.n_tokens if ids is None else ids,
        "dtype": opened.dtype.name,
        "sequences": opened.n_sequences,
        "tokenizer_sha256": sidecar.tokenizer_sha256 if sidecar else None,
        "text_bytes": sidecar.text_bytes if sidecar else None,
    }
    if ids is not None and tokenizer is not None:
        from keepwarm.corpora.tokenizer import load_tokenizer

        facts["text"] = load_tokenizer(tokenizer).backend.decode(ids, skip_special_tokens=False)
    return facts
