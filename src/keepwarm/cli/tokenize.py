"""`keepwarm tokenize`: text to .bin/.idx."""

from __future__ import annotations

from pathlib import Path


def tokenize(
    *text: str, tokenizer: Path, output: Path, seed: int = 0, eod: str | None = None, workers: int | None = None
) -> int:
    """Tokenize text into Megatron's .bin/.idx, documents shuffled once, a document end after each.

    Stopped by Ctrl-C or a kill, the same command goes on. The number of workers changes no byte.

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
        The special token that ends a document, where the tokenizer does not say.
    workers
        Processes that encode at a time; by default one for each processor.
    """
    from keepwarm.corpora.tokenize import tokenize_corpus
    from keepwarm.corpora.tokenizer import load_tokenizer
    from keepwarm.errors import KeepwarmError
    from keepwarm.report.progress import progress_bar

    if not text:
        raise KeepwarmError("no text is named", "there is nothing to tokenize", "keepwarm tokenize text.jsonl ...")
    if workers is not None and workers < 1:
        raise KeepwarmError(f"--workers {workers}", "at least one process does the work", "--workers 1")
    loaded = load_tokenizer(tokenizer, eod)
    with progress_bar("tokenizing") as (say, progress):
        sidecar = tokenize_corpus(text, loaded, output, seed=seed, workers=workers, tell=say, progress=progress)
    per_token = sidecar.text_bytes / sidecar.tokens
    print(f"{output}: {sidecar.documents:,} documents, {sidecar.tokens:,} tokens, {per_token:.2f} bytes a token")
    if sidecar.empty_documents:
        print(f"  {sidecar.empty_documents:,} empty documents were left out")
    if sidecar.special_tokens_escaped:
        print(f"  {sidecar.special_tokens_escaped:,} times the text spells a special token; kept as text")
    return 0
