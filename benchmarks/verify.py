"""Reading a token file whole: `keepwarm data verify` against a plain numpy pass, and whether it finds what is wrong.

    python benchmarks/verify.py [--megabytes 400] [--faults 120] [--folder FOLDER]

Speed: a corpus of uint16 and one of int32 tokens, without a sidecar. The peer does less: `numpy.memmap`, then max, min
and a count of the document end, each over all of it; it hashes nothing, looks at no document and reads no index.
Figures are CPU seconds of a process of its own (user and system), the best of five, the file in the page cache; and the
peak of resident memory. "the same, hashed" is the peer with the blake2b that a content's identity is made of.

Faults: small corpora, each damaged in one way drawn by a seed. Found means that exactly this kind is reported, repaired
that the documents read back are the ones that were written (of truncated files: the complete ones).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EOD = 0
TOKENS_IN_DOCUMENT = 700  # on average
PLACE_OF_LENGTHS = 34
REPAIRED = (
    "uncounted-eod", "shifted", "truncated-bin", "wrong-dtype", "trailing-bytes", "pointers", "document-indices",
    "lengths", "header",
)  # fmt: skip
TOLD = ("ids-out-of-range", "sidecar", "hashes", "missing-file")
RUNS = 5


def write_corpus(prefix: Path, dtype: str, megabytes: float, seed: int = 0) -> None:
    """Random documents closed by EOD."""
    from keepwarm.corpora.indexed import IndexedWriter

    draw = np.random.default_rng(seed)
    with IndexedWriter(prefix, dtype) as writer:
        while writer.tokens * np.dtype(dtype).itemsize < megabytes * 1e6:
            lengths = draw.integers(2, 2 * TOKENS_IN_DOCUMENT, 2000)
            tokens = draw.integers(1, 50_000, int(lengths.sum()), dtype=np.int64)
            tokens[np.cumsum(lengths) - 1] = EOD
            writer.add_documents(tokens, lengths)


def plain(path: Path, dtype: str, hashed: bool) -> None:
    """The peer: what one writes in a notebook."""
    tokens = np.memmap(path, dtype=dtype, mode="r")
    print(int(tokens.max()), int(tokens.min()), int(np.count_nonzero(tokens == EOD)), file=sys.stderr)
    if hashed:
        print(hashlib.blake2b(tokens.data, digest_size=8).hexdigest(), file=sys.stderr)


def child(way: str, path: str, dtype: str) -> None:
    """One measured pass: CPU seconds and peak MB, without what importing costs."""
    from keepwarm.corpora.verify import verify

    before = time.process_time()
    if way == "verify":
        assert verify(path, vocab_size=50_000, eod=EOD).ok
    else:
        plain(Path(path), dtype, way == "hashed")
    print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def measured(way: str, binary: Path, dtype: str) -> tuple[float, float]:
    """The best CPU seconds of `RUNS`, and the peak MB."""
    command = [sys.executable, __file__, "--child", way, str(binary), dtype]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(RUNS)]
    return min(float(run[0]) for run in runs), max(float(run[1]) for run in runs)


def speed(folder: Path, megabytes: float) -> None:
    """Print the table of speeds."""
    print("| tokens | way | CPU s | GB a CPU second | ratio | peak MB |\n|---|---|---|---|---|---|")
    for dtype in ("<u2", "<i4"):
        name = np.dtype(dtype).name
        write_corpus(folder / name, dtype, megabytes)
        binary = folder / f"{name}.bin"
        found = {way: measured(way, binary, dtype) for way in ("plain", "hashed", "verify")}
        labels = {
            "plain": "numpy.memmap max, min, ends",
            "hashed": "the same, hashed",
            "verify": "keepwarm data verify",
        }
        for way, (cpu, peak) in found.items():
            rate, ratio = binary.stat().st_size / 1e9 / cpu, found["plain"][0] / cpu
            print(f"| {name} | {labels[way]} | {cpu:.2f} | {rate:.2f} | {ratio:.2f} | {peak:.0f} |")
        for suffix in (".bin", ".idx"):
            (folder / (name + suffix)).unlink()


def documents_of(prefix: Path) -> list[bytes]:
    """Every document's tokens, as int64 bytes."""
    from keepwarm.corpora.indexed import open_indexed

    opened = open_indexed(prefix)
    return [opened.document(number).astype(np.int64).tobytes() for number in range(opened.n_documents)]


def put(path: Path, place: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def damage(kind: str, prefix: Path, draw: np.random.Generator) -> int:
    """Damage a sound pair in one way; how many of its documents a repair is to give back."""
    from keepwarm.corpora.indexed import index_bytes, open_indexed

    opened = open_indexed(prefix)
    binary, index = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    count, width = opened.n_documents, opened.dtype.itemsize
    one = int(draw.integers(0, count))
    place_of_pointers, place_of_documents = PLACE_OF_LENGTHS + 4 * count, PLACE_OF_LENGTHS + 12 * count
    if kind == "uncounted-eod":
        index.write_bytes(index_bytes(opened.dtype, opened.lengths - 1, range(count + 1)))
    elif kind == "shifted":  # merged of files of which one does not count its document ends
        uncounted = np.zeros(count, dtype=np.int64)
        uncounted[one : one + max(1, count // 2)] = 1
        index.write_bytes(index_bytes(opened.dtype, opened.lengths - uncounted, range(count + 1)))
    elif kind == "truncated-bin":
        one = max(1, one)
        os.truncate(binary, int(opened.pointers[one]) + int(draw.integers(0, int(opened.lengths[one]) * width)))
        return one
    elif kind == "wrong-dtype":
        others = [code for code, bytes_ in ((1, 1), (8, 2), (4, 4), (5, 8)) if bytes_ != width]
        put(index, 17, bytes([int(draw.choice(others))]))
    elif kind == "trailing-bytes":
        with open(binary, "ab") as file:
            file.write(draw.bytes(int(draw.integers(1, count * width))))
    elif kind == "pointers":
        put(index, place_of_pointers + 8 * one, draw.integers(-(1 << 60), 1 << 60).astype("<i8").tobytes())
    elif kind == "document-indices":
        put(index, place_of_documents + 8 * one, np.int64(draw.integers(count + 1, 1 << 40)).tobytes())
    elif kind == "lengths":
        put(index, PLACE_OF_LENGTHS + 4 * one, np.int32(-draw.integers(1, 1 << 30)).tobytes())
    elif kind == "header":
        place, data = [(int(draw.integers(0, 9)), b"X"), (9, b"\x09"), (17, b"\x63")][int(draw.integers(0, 3))]
        put(index, place, data)
    elif kind == "ids-out-of-range":
        put(binary, width * int(draw.integers(0, opened.n_tokens)), draw.integers(50_000, 65_000).astype(opened.dtype))
    elif kind == "missing-file":
        [binary, index][int(draw.integers(0, 2))].unlink()
    else:
        _beside(kind, prefix, count, draw)
    return count


def _beside(kind: str, prefix: Path, count: int, draw: np.random.Generator) -> None:
    from keepwarm.corpora.identity import hash_path
    from keepwarm.corpora.indexed import Sidecar, open_indexed, sidecar_path, write_sidecar
    from keepwarm.corpora.verify import verify

    if kind == "hashes":
        np.save(hash_path(prefix), np.zeros(count + int(draw.integers(1, 9)), np.uint64))
        return
    opened, path = open_indexed(prefix), Path(f"{prefix}.idx")
    index = path.read_bytes()
    path.unlink()  # a sidecar is written before its index
    known = dict(tokenizer_sha256="", vocab_size=50_000, eod=EOD, text_bytes=1)
    content = hashlib.blake2b(opened.tokens.tobytes(), digest_size=8)
    content.update(opened.lengths.astype("<i8").tobytes() + opened.document_indices.astype("<i8").tobytes())
    write_sidecar(prefix, Sidecar(documents=count, tokens=opened.n_tokens, content_id=content.hexdigest(), **known))
    path.write_bytes(index)
    assert verify(prefix).ok and sidecar_path(prefix).exists()
    place = int(draw.integers(0, opened.n_tokens))
    token = int(opened.tokens[place])
    put(Path(f"{prefix}.bin"), place * opened.dtype.itemsize, np.array(token ^ 1, opened.dtype).tobytes())


def faults(folder: Path, number: int) -> bool:
    """Damage `number` files of every kind in turn; print found and repaired. True if it is all of them."""
    from keepwarm.corpora.verify import repair, verify

    kinds = [*REPAIRED, *TOLD]
    files, found, mended = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    draw = np.random.default_rng(0)
    for step in range(number):
        kind, dtype = kinds[step % len(kinds)], ["<u2", "<i4"][step // len(kinds) % 2]
        prefix = folder / f"fault-{step}"
        write_corpus(prefix, dtype, 0.2, seed=step)
        before = documents_of(prefix)
        assert verify(prefix, vocab_size=50_000).ok
        kept = damage(kind, prefix, draw)
        report = verify(prefix, vocab_size=50_000)
        files[kind] += 1
        found[kind] += [finding.kind for finding in report.findings] == [kind]
        if kind in REPAIRED and report.fix is not None:
            mended[kind] += documents_of(repair(prefix, report)) == before[:kept]
        for path in folder.glob(f"fault-{step}.*"):
            path.unlink()
    print("\n| fault | files | found | repaired |\n|---|---|---|---|")
    for kind in kinds:
        print(f"| {kind} | {files[kind]} | {found[kind]} | {mended[kind] if kind in REPAIRED else 'only told'} |")
    wanted = sum(files[kind] for kind in REPAIRED)
    print(f"\nfound {sum(found.values())} of {number}, repaired {sum(mended.values())} of {wanted}")
    return sum(found.values()) == number and sum(mended.values()) == wanted


def main() -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--faults", type=int, default=120)
    parser.add_argument("--folder", type=Path, help="where the files go; by default the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        speed(Path(name), asked.megabytes)
        return 0 if faults(Path(name), asked.faults) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
