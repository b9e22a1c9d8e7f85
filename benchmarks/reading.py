"""Samples read from token files: keepwarm against torch's DataLoader over mapped files, in one run; and memory.

    python benchmarks/reading.py [--samples 12k] [--sources 3000] [--folder FOLDER]

Speed: samples of 4,097 tokens from 100 files of 2 to 3 MB of int32, which are in the page cache. keepwarm's figure has
the order in it. The peers are `torch.utils.data.DataLoader` without workers and with its own collating, given the same
samples in the same order as a list beforehand, over two map-style datasets: the plainest one, which holds a
`numpy.memmap` of every file and cuts windows from it, and the reference's way (BlendCorpus' GPTDataset, without its
logging), which joins a sample from documents, here of 1,000 tokens. Both give int64, as datasets for torch do; keepwarm
gives int32 into the trainer's own memory, to be widened where the model is. One row has it widened by the CPU, another
the plain dataset left at int32. The first batches are compared. Figures are CPU seconds of this process (user, system,
all threads) by sample, the best of several; files are open before, and a window is read once, as in an epoch.

Memory: a loader over thousands of sources, then over as many that are six times as large, in processes of their own;
the `.bin` files are sparse. The peer there holds a mapping of every file and reads the same samples. A descriptor is
a file that is open at the end. Resident memory is the kernel's (VmRSS, and VmHWM for the peak). Prints markdown; exits
1 if a bar is not met. About a minute; 200 MB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from keepwarm.blend.loader import Loader
from keepwarm.blend.mixture import Mixture
from keepwarm.blend.stream import Segment, Stream
from keepwarm.corpora.indexed import index_bytes, open_indexed
from keepwarm.corpora.source import Source
from keepwarm.units import parse_count

SEQUENCE = 4096
FILES, BATCHES = 100, (8, 32, 384)  # files, and samples a batch
TOKENS_IN_DOCUMENT = 1000
MEMORY_BATCH, MEMORY_SAMPLES, LARGER = 32, 20_000, 6
RUNS = 5
OPENING = 1000  # samples, in which every file occurs


def write_pair(prefix: Path, tokens: int, draw: np.random.Generator | None) -> None:
    """A token file of int32: random ids, or without `draw` a hole of that length; documents of one length."""
    with open(f"{prefix}.bin", "wb") as file:
        if draw is None:
            file.truncate(4 * tokens)
        else:
            draw.integers(0, 100_000, tokens, dtype=np.int32).tofile(file)
    lengths = [TOKENS_IN_DOCUMENT] * (tokens // TOKENS_IN_DOCUMENT) + [tokens % TOKENS_IN_DOCUMENT]
    Path(f"{prefix}.idx").write_bytes(index_bytes(np.dtype("<i4"), lengths, range(len(lengths) + 1)))


def source_of(folder: Path, number: int) -> Source:
    """A file of a folder, all of it to be trained on."""
    prefix = folder / f"{number:05d}"
    return Source(
        prefix.name, f"{number:016x}", prefix, np.array([[0, (folder / f"{prefix}.bin").stat().st_size // 4]])
    )


def stream_of(folder: Path, count: int) -> Stream:
    """All files of a folder, in equal shares."""
    sources = {source.id: source for source in (source_of(folder, number) for number in range(count))}
    return Stream([Segment(0, Mixture(tuple((name, 1) for name in sources)))], sources, 1, SEQUENCE)


# 1. CPU time a sample


class Windows:
    """The plainest dataset: windows of mapped files, in the order of a list of (file, window)."""

    dtype: type[np.signedinteger] = np.int64

    def __init__(self, folder: Path, order: list[tuple[int, int]]) -> None:
        self.order = order
        self.files = [np.memmap(path, dtype=np.int32, mode="r") for path in sorted(folder.glob("*.bin"))]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> object:
        import torch

        file, window = self.order[place]
        first = window * SEQUENCE
        return torch.from_numpy(np.array(self.files[file][first : first + SEQUENCE + 1], dtype=self.dtype))


class NarrowWindows(Windows):
    """The same, not widened."""

    dtype = np.int32


class Documents(Windows):
    """The reference's: where a sample begins and ends is looked up, and its documents are joined."""

    def __init__(self, folder: Path, order: list[tuple[int, int]]) -> None:
        super().__init__(folder, order)
        self.parts = []
        for tokens, path in zip(self.files, sorted(folder.glob("*.bin")), strict=True):
            opened = open_indexed(path)
            ends = np.cumsum(opened.lengths, dtype=np.int64)
            starts = np.arange(len(tokens) // SEQUENCE + 1) * SEQUENCE
            document = np.searchsorted(ends, starts, side="right")
            sample_idx = np.stack([document, starts - (ends - opened.lengths)[document]], axis=1)
            doc_idx = np.arange(opened.n_documents, dtype=np.int32)
            self.parts.append((memoryview(tokens), opened.pointers, opened.lengths, sample_idx, doc_idx))

    def __getitem__(self, place: int) -> object:
        file, window = self.order[place]
        buffer, pointers, sizes, sample_idx, doc_idx = self.parts[file]

        def get(document: int, offset: int = 0, length: int | None = None) -> np.ndarray:
            pointer, size = pointers[document], sizes[document]
            count = size - offset if length is None else length
            return np.frombuffer(buffer, dtype=np.int32, count=count, offset=pointer + offset * 4)

        first, last = sample_idx[window][0], sample_idx[window + 1][0]
        offset, stop = sample_idx[window][1], sample_idx[window + 1][1]
        if first == last:
            sample = get(doc_idx[first], offset, stop - offset + 1)
        else:
            pieces = [get(doc_idx[first], offset)]
            pieces += [get(doc_idx[number]) for number in range(first + 1, last)]
            sample = np.concatenate([*pieces, get(doc_idx[last], length=stop + 1)])
        return {"text": np.array(sample, dtype=np.int64)}


def opened_stream(folder: Path) -> Stream:
    """The stream with its files open."""
    stream = stream_of(folder, FILES)
    stream.batch(0, OPENING)
    return stream


def tokens_of(batch: object) -> np.ndarray:
    return np.asarray(batch["text"] if isinstance(batch, dict) else batch)


def read_stream(stream: Stream, size: int, count: int, widened: bool) -> None:
    """Batches into the same memory, as a trainer's pinned buffer is."""
    import torch

    out = np.empty((size, SEQUENCE + 1), dtype=np.int32)
    wide = torch.empty((size, SEQUENCE + 1), dtype=torch.int64)
    for number in range(count):
        stream.batch(number * size, (number + 1) * size, out)
        if widened:
            wide.copy_(torch.from_numpy(out))
    stream.close()


def read_loader(stream: Stream, size: int, count: int) -> None:
    with Loader(stream, lambda batch: size * batch, 0, count) as loader:
        for _ in range(count):
            loader.next()


def read_torch(loader: Iterable[object]) -> None:
    for _ in loader:
        pass


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def speed(folder: Path, samples: int) -> bool:
    """Print the table of CPU time; whether its bars hold."""
    import torch

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    for number in range(FILES):
        write_pair(folder / f"{number:05d}", int(draw.integers(500_000, 750_000)), draw)
    stream = stream_of(folder, FILES)
    located = stream.locate(0, samples)
    assert not located.epoch.any()
    order = list(zip(located.source_index.tolist(), located.window.tolist(), strict=True))
    print(
        f"**One sample of {SEQUENCE + 1:,} tokens into a batch** ({FILES} files, {samples:,} samples; bar: 2.5 "
        f"times as fast as either, in batches of {BATCHES[-1]})\n\n| batch | way | CPU us a sample | times as fast as "
        "over memmap | as over GPTDataset | holds |\n|---|---|---|---|---|---|"
    )
    good = True
    for size in BATCHES:
        for peer in (peer_of(dataset, folder, order, size) for dataset in (Windows, Documents)):
            ours, theirs = stream.batch(0, size)[0], tokens_of(next(iter(peer)))
            assert np.array_equal(ours, theirs)
        good = timed(folder, order, size) and good
    stream.close()
    return good


def peer_of(dataset: type[Windows], folder: Path, order: list[tuple[int, int]], size: int) -> Iterable[object]:
    import torch

    return torch.utils.data.DataLoader(dataset(folder, order), batch_size=size, drop_last=True)


def timed(folder: Path, order: list[tuple[int, int]], size: int) -> bool:
    """Print the rows of one batch size, turn by turn measured; whether the bars hold."""
    count = len(order) // size
    ways: dict[str, Callable[[], Callable[[], None]]] = {  # what opens the files anew, and gives the work
        "torch DataLoader over numpy.memmap": lambda: partial(read_torch, peer_of(Windows, folder, order, size)),
        "the same, left at int32": lambda: partial(read_torch, peer_of(NarrowWindows, folder, order, size)),
        "torch DataLoader over GPTDataset": lambda: partial(read_torch, peer_of(Documents, folder, order, size)),
        "keepwarm Stream.batch": lambda: partial(read_stream, opened_stream(folder), size, count, False),
        "the same, widened to int64": lambda: partial(read_stream, opened_stream(folder), size, count, True),
        "keepwarm Loader": lambda: partial(read_loader, opened_stream(folder), size, count),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(RUNS):
        for way, opened in ways.items():
            took[way].append(cpu(opened()) / (count * size) * 1e6)
    least, good = {way: min(each) for way, each in took.items()}, True
    peers = [least[f"torch DataLoader over {dataset}"] for dataset in ("numpy.memmap", "GPTDataset")]
    for way, each in least.items():
        ratios = [peer / each for peer in peers]
        holds = min(ratios) >= 2.5 if way == "keepwarm Stream.batch" and size == BATCHES[-1] else None
        good = good and holds is not False
        print(f"| {size} | {way} | {each:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {said(holds)} |", flush=True)
    return good


def said(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "NO"


# 2. Memory


def resident(what: str) -> float:
    """MB of this process: VmRSS, or VmHWM for the most it was (ru_maxrss would begin with the parent's)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(what)


def memory_child(way: str, folder: Path, count: int, samples: int) -> None:
    """One measured process: prints what `report` does."""
    imported = resident("VmRSS")
    stream = stream_of(folder, count)
    batches = samples // MEMORY_BATCH
    before = time.process_time()
    if way == "loader":
        with Loader(stream, lambda batch: MEMORY_BATCH * batch, 0, batches) as loader:
            for _ in range(batches):
                loader.next()
            report(imported, time.process_time() - before, samples)
        return
    files = [
        np.memmap(source.prefix.with_suffix(".bin"), dtype=np.int32, mode="r") for source in stream.sources.values()
    ]
    for number in range(batches):
        located = stream.locate(number * MEMORY_BATCH, (number + 1) * MEMORY_BATCH)
        batch = np.empty((MEMORY_BATCH, SEQUENCE + 1), dtype=np.int64)
        for row, file, window in zip(batch, located.source_index.tolist(), located.window.tolist(), strict=True):
            row[:] = files[file][window * SEQUENCE : (window + 1) * SEQUENCE + 1]
    report(imported, time.process_time() - before, samples)


def report(imported: float, seconds: float, samples: int) -> None:
    """MB after importing, at the peak and at the end; open files; CPU us a sample."""
    assert "torch" not in sys.modules
    descriptors = len(os.listdir("/proc/self/fd"))
    print(imported, resident("VmHWM"), resident("VmRSS"), descriptors, seconds / samples * 1e6)


def memory(folder: Path, count: int) -> bool:
    """Print the table of memory; whether its bars hold."""
    draw = np.random.default_rng(1)
    windows = draw.integers(3, 8, count).tolist()
    folders = {}
    for times in (1, LARGER):
        folders[times] = folder / f"times-{times}"
        folders[times].mkdir()
        for number, each in enumerate(windows):
            write_pair(folders[times] / f"{number:05d}", times * each * SEQUENCE + 1, None)
    print(
        f"\n**Memory over {count:,} sources** ({MEMORY_SAMPLES:,} samples in batches of {MEMORY_BATCH})\n\n"
        "| way | tokens | peak MB | of it importing | at the end MB | descriptors | CPU us a sample | holds |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    found = {}
    for way, label in (("loader", "keepwarm Loader, bar 300"), ("mapped", "numpy.memmap of every file")):
        for times, each in folders.items():
            command = [sys.executable, __file__, "--memory", way, str(each), str(count), str(MEMORY_SAMPLES)]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            imported, peak, end, descriptors, took = (float(number) for number in text.split())
            found[way, times] = peak
            tokens = times * sum(windows) * SEQUENCE
            cells = f"{peak:.0f} | {imported:.0f} | {end:.0f} | {descriptors:.0f} | {took:.1f}"
            print(f"| {label} | {tokens / 1e6:.0f} M | {cells} | {said(peak < 300 if way == 'loader' else None)} |")
    more = {way: found[way, LARGER] - found[way, 1] for way in ("loader", "mapped")}
    flat = more["loader"] < max(10, 0.05 * found["loader", 1])
    print(
        f"| keepwarm, {LARGER} times the tokens: bar + 10 MB or 5 % | | {more['loader']:+.1f} | | | | | {said(flat)} |"
    )
    print(f"| numpy.memmap, {LARGER} times the tokens | | {more['mapped']:+.1f} | | | | | |")
    return flat and max(found["loader", 1], found["loader", LARGER]) < 300


def main() -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=parse_count, default=12_000)
    parser.add_argument("--sources", type=int, default=3000)
    parser.add_argument("--folder", type=Path, help="where the files go; by default the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        (Path(name) / "speed").mkdir()
        good = [speed(Path(name) / "speed", asked.samples), memory(Path(name), asked.sources)]
    print(f"\n{'all bars hold' if all(good) else 'NOT all bars hold'}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        memory_child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
