"""`keepwarm tokenize`: text to .bin/.idx."""

from __future__ import annotations

import sys
from pathlib import Path


def tokenize(*text: str, tokenizer: Path, output: Path, seed: int = 0, eod: str | None = None) -> int:
    """Tokenize text into Megatron's .bin/.idx, documents shuffled once, a document end after each.

    Parameters
    ----------
    text
        Paths or globs of .jsonl (key text), .txt, .parquet (column text), plain or with .gz or .zst.
    tokenizer
        A tokenizer.json, or a folder that holds one.
    output
        Prefix of the files to write: PREFIX.bin, PREFIX.idx, PREFIX.meta.json.
    seed
        Of the order of documents.
    eod
        The token that ends a document, where the tokenizer does not say.
    """
    from keepwarm.corpora.tokenize import tokenize_corpus
    from keepwarm.corpora.tokenizer import load_tokenizer
    from keepwarm.errors import KeepwarmError

    if not text:
        raise KeepwarmError("no text is named", "there is nothing to tokenize", "keepwarm tokenize text.jsonl ...")
    show = sys.stderr.isatty()

    def progress(documents: int) -> None:
        if show:
            print(f"\r{documents:,} documents", end="", file=sys.stderr, flush=True)

    sidecar = tokenize_corpus(text, load_tokenizer(tokenizer, eod), output, seed=seed, progress=progress)
    print("\r" if show else "", end="", file=sys.stderr)
    per_byte = sidecar.tokens / max(1, sidecar.text_bytes)
    print(f"{output}: {sidecar.documents:,} documents, {sidecar.tokens:,} tokens, {1 / per_byte:.2f} bytes a token")
    if sidecar.empty_documents:
        print(f"  {sidecar.empty_documents:,} empty documents were left out")
    if sidecar.special_tokens_escaped:
        print(f"  {sidecar.special_tokens_escaped:,} times the text spells a special token; kept as text")
    return 0
