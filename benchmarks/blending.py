"""The order of data: keepwarm's, which is computed, against the reference's, which is built beforehand, in one run.

    python benchmarks/blending.py [--samples 20M] [--sources 100]

Peers. Building: Megatron's helpers.build_blending_indices, its published loop compiled by numba (extra [numba]): for
every sample of the run the source that lags most, written into dataset_index and dataset_sample_index; held in the run
against the vectors that the original wrote (tests/golden/data). It is given its weights ready; keepwarm's figure has
the exact mixture in it. Looking up: BlendCorpus' chain of index arrays as it is called, sample by sample, arrays in
memory, or mapped where it maps them; no call is counted but the indexing. Figures are CPU seconds of this process, the
best of several, numba's compiling not counted. "ahead" is how a trainer's batches of 384 are located: 16,384 samples at
a time, of which ten batches are served.

Also how far the sources stray from their shares at every prefix, against the greedy order on the same weights; and
that the samples are the same whatever the world size, the batch and the stops, without gap or repeat when sources come
and go. Prints markdown; exits 1 if a bar is not met. Under a minute and 500 MB.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np

from keepwarm.blend.interleave import Interleave
from keepwarm.blend.mixture import Mixture, combine
from keepwarm.blend.permutation import permute, window_key
from keepwarm.blend.stream import Segment, Stream, next_segment
from keepwarm.corpora.source import Source
from keepwarm.units import parse_count

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "data"
SEQUENCE = 4096
BATCH, AHEAD = 384, 16384
SERVED_AHEAD = AHEAD // BATCH * BATCH
CALLS = 20_000  # of the peer's chain
MIDDLE = 3_000_000  # where samples are located, in the midst of a run
PREFIX, FAMILIES, LONG_PREFIX = 4096, 300, 1 << 20
GLOBAL_BATCH, STEPS, WORLDS = 24, 400, (1, 2, 3, 4, 6, 8, 12)


@numba.njit
def build_blending_indices(dataset_index, dataset_sample_index, weights, size):
    """The reference's build, loop by loop."""
    current_samples = np.zeros(len(weights), dtype=np.int64)
    for sample in range(size):
        wanted = max(np.float64(sample), 1.0)
        most = 0
        max_error = weights[0] * wanted - np.float64(current_samples[0])
        for dataset in range(1, len(weights)):
            error = weights[dataset] * wanted - np.float64(current_samples[dataset])
            if error > max_error:
                max_error = error
                most = dataset
        dataset_index[sample] = most
        dataset_sample_index[sample] = current_samples[most]
        current_samples[most] += 1


class Bars:
    """Prints rows and remembers whether all bars held."""

    def __init__(self) -> None:
        self.all_hold = True

    def table(self, title: str, *columns: str) -> None:
        print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def row(self, *cells: str, holds: bool | None = None) -> None:
        """A row whose last column says whether its bar holds; None: it has no bar."""
        self.all_hold = self.all_hold and holds is not False
        print(f"| {' | '.join(cells)} | {'' if holds is None else 'yes' if holds else 'NO'} |", flush=True)


def best(work: Callable[[], object], runs: int) -> float:
    """CPU seconds of `work`, the best of `runs`."""
    found = []
    for _ in range(runs):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found)


def best_in_turns(ways: dict[str, tuple[Callable[[], object], int]], rounds: int = 4) -> dict[str, float]:
    """CPU seconds of each way, the best of its runs in all rounds: a machine's slow moments last some seconds."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for label, (work, runs) in ways.items():
            found[label] = min(found[label], best(work, runs))
    return found


def fractions_of(count: int, draw: np.random.Generator) -> dict[str, Fraction]:
    """Weights as a plan writes them, six decimals, skewed, by the ids of `count` sources."""
    shares = np.maximum(draw.dirichlet(np.full(count, 0.5)), 1e-5)
    ids = [f"{number:016x}" for number in range(count)]
    return {name: Fraction(f"{share:.6f}") for name, share in zip(ids, shares.tolist(), strict=True)}


def fake_sources(ids: Iterable[str], folder: Path, low: int, high: int, draw: np.random.Generator) -> dict[str, Source]:
    """Sources of `low` to `high` windows whose files are not there: nothing here reads tokens."""
    return {
        name: Source(name, name, folder / name, np.array([[0, int(draw.integers(low, high)) * SEQUENCE + 1]]))
        for name in ids
    }


# 1. Cold start and bytes


def golden_agrees() -> tuple[int, int]:
    """How many of the original's vectors the peer here reproduces, of how many."""
    cases = json.loads((GOLDEN / "helpers_blending.json").read_text(encoding="utf-8"))["weights"]
    vectors, same = np.load(GOLDEN / "helpers_blending.npz"), 0
    for name, case in cases.items():
        wanted = vectors[f"{name}_dataset_index"], vectors[f"{name}_dataset_sample_index"]
        source, number = indices(np.array(case["weights"]), len(wanted[0]))
        same += np.array_equal(source, wanted[0]) and np.array_equal(number, wanted[1])
    return same, len(cases)


def indices(weights: np.ndarray, size: int, kind: str = "i2") -> tuple[np.ndarray, np.ndarray]:
    """The reference's two arrays: dataset_index of int16 (Megatron-LM) or int64 (BlendCorpus), and the sample's."""
    source, number = np.zeros(size, dtype=kind), np.zeros(size, dtype=np.int64)
    build_blending_indices(source, number, weights, size)
    return source, number


def cold_start(bars: Bars, samples: int, count: int) -> None:
    draw = np.random.default_rng(0)
    wanted = fractions_of(count, draw)
    floats = np.array([float(weight) for weight in wanted.values()])
    floats /= floats.sum()
    same, cases = golden_agrees()
    with tempfile.TemporaryDirectory() as name:
        sources = fake_sources(wanted, Path(name), 5_000, 400_000, draw)
        mixture = combine([(Fraction(1), wanted)])
        weights = [weight for _, weight in mixture.weights]
        stream = Stream([Segment(0, mixture)], sources, 1, SEQUENCE)
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "peer": (lambda: indices(floats, samples), 1),
            "ours": (lambda: opened(wanted, sources), 20),
            "the mixture, exact": (lambda: combine([(Fraction(1), wanted)]), 20),
            "Stream": (lambda: fresh_stream(mixture, sources), 20),
            "of Stream: Interleave": (lambda: Interleave(weights), 20),
            f"the first batch of {BATCH}": (lambda: stream.locate(0, BATCH), 20),
        }
        took = best_in_turns(ways)
        first = min(float(child("--cold", str(count))) for _ in range(3))
        left = sum(path.stat().st_size for path in Path(name).rglob("*"))
    peer, ours = took.pop("peer"), took.pop("ours")
    bars.table(
        f"**Cold start: {count} sources, {samples:,} samples** (the peer gives {same} of {cases} of the original's "
        "vectors)",
        "what", "CPU ms", "index build takes times as long", "holds",
    )  # fmt: skip
    bars.row(f"Megatron's index build ({peer / samples * 1e9:.0f} ns a sample)", f"{peer * 1e3:,.0f}", "1")
    bars.row(
        "keepwarm: open and locate the first batch, bar 1,000", f"{ours * 1e3:.2f}", f"{peer / ours:,.0f}",
        holds=peer / ours >= 1000 and same == cases,
    )  # fmt: skip
    for label, seconds in took.items():
        bars.row(f"- {label}", f"{seconds * 1e3:.2f}", f"{peer / seconds:,.0f}")
    bars.row("the same as the first thing in a new process, best of 3", f"{first * 1e3:.2f}", f"{peer / first:,.0f}")
    held_bytes(bars, samples, count, left)


def fresh_stream(mixture: Mixture, sources: dict[str, Source]) -> Stream:
    """A stream with no key known from before."""
    window_key.cache_clear()
    return Stream([Segment(0, mixture)], sources, 1, SEQUENCE)


def opened(wanted: dict[str, Fraction], sources: dict[str, Source]) -> object:
    """All of a cold start."""
    return fresh_stream(combine([(Fraction(1), wanted)]), sources).locate(0, BATCH)


def cold(count: int) -> None:
    """Child: CPU seconds of the first cold start of a process."""
    draw = np.random.default_rng(0)
    wanted = fractions_of(count, draw)
    sources = fake_sources(wanted, Path("nowhere"), 5_000, 400_000, draw)
    before = time.process_time()
    opened(wanted, sources)
    print(time.process_time() - before)


def child(*arguments: str, **environment: str) -> str:
    """What this file prints in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout.strip()


def held_bytes(bars: Bars, samples: int, count: int, left: int) -> None:
    """Index files, and what the order holds in memory: its arrays, and what is held beside them."""
    draw = np.random.default_rng(0)
    wanted = fractions_of(count, draw)
    mixture = combine([(Fraction(1), wanted)])
    sources = fake_sources(wanted, Path("nowhere"), 5_000, 400_000, draw)
    gc.collect()
    tracemalloc.start()
    stream = fresh_stream(mixture, sources)
    gc.collect()
    whole = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    tree, turns = stream._interleaves[0], stream._turns
    arrays = {
        "Interleave": arrays_of(tree),
        "Turns": arrays_of(turns),
        "the segment's tables": {"numbers": stream._numbers[0], "bases": stream._bases[0]},
    }
    total = sum(array.nbytes for each in arrays.values() for array in each.values())
    known: set[int] = set()
    deep_size([wanted, sources, mixture], known)
    beside = sum(deep_size(value, known) for part in (tree, turns) for value in vars(part).values() if not_array(value))
    reader = deep_size(vars(stream._reader), known)
    bars.table("**Bytes**", "what", "keepwarm", "Megatron-LM", "BlendCorpus", "holds")
    bars.row(
        f"index files of {samples:,} samples", f"{left:,}", f"{10 * samples:,}", f"{16 * samples:,}", holds=left == 0
    )
    bars.row("a sample", "0", "10", "16")
    spelled = "; ".join(
        f"{part} {' + '.join(f'{name} {array.nbytes / count:.0f}' for name, array in each.items())}"
        for part, each in arrays.items()
    )
    bars.row(f"arrays a source, bar 64: {spelled}", f"{total / count:.1f}", "", "", holds=total <= 64 * count)
    bars.row("beside them a source: Interleave's and Turns' lists, tuples, integers", f"{beside / count:.0f}", "", "")
    bars.row("beside them a source: WindowReader's, before it reads", f"{reader / count:.0f}", "", "")
    bars.row("all that building a Stream leaves allocated, a source (tracemalloc)", f"{whole / count:.0f}", "", "")


def arrays_of(part: object) -> dict[str, np.ndarray]:
    return {name: value for name, value in vars(part).items() if isinstance(value, np.ndarray)}


def not_array(value: object) -> bool:
    return not isinstance(value, np.ndarray)


def deep_size(value: object, known: set[int]) -> int:
    """Bytes of an object and of all that it holds, but for what is in `known` already."""
    if id(value) in known:
        return 0
    known.add(id(value))
    size = sys.getsizeof(value)  # of an array with its data, if it owns them
    if isinstance(value, dict):
        return size + sum(deep_size(each, known) for pair in value.items() for each in pair)
    if isinstance(value, (list, tuple, set)):
        return size + sum(deep_size(each, known) for each in value)
    inside = [getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)]
    if isinstance(value, (Source, Mixture, Segment)):
        return size + sum(deep_size(each, known) for each in inside)
    return size


# 2. Sample -> source, epoch, window


WAYS: dict[str, tuple[str, int, int, int, int | None]] = {  # numba, samples located, of these served, blocks, bar
    f"numpy, batches of {BATCH}, each by itself": ("0", BATCH, BATCH, 40, None),
    f"numpy, batches of {BATCH} ahead": ("0", AHEAD, SERVED_AHEAD, 12, 330),
    "numpy, blocks of 65,536": ("0", 1 << 16, 1 << 16, 4, 330),
    "numpy, blocks of a million": ("0", 1 << 20, 1 << 20, 1, 330),
    "numba, blocks of 65,536": ("1", 1 << 16, 1 << 16, 16, 90),
    "numba, blocks of a million": ("1", 1 << 20, 1 << 20, 2, 90),
}


def map_speed(bars: Bars, count: int) -> None:
    draw = np.random.default_rng(1)
    wanted = fractions_of(count, draw)
    mixture = combine([(Fraction(1), wanted)])
    streams = [
        fresh_stream(mixture, fake_sources(wanted, Path("nowhere"), low, high, draw))
        for low, high in ((400_000, 400_001), (5_000, 400_000))
    ]
    with tempfile.TemporaryDirectory() as name:
        took = map_times(streams, [float(weight) for weight in wanted.values()], Path(name), draw)
    chain, mapped = took["chain", 0], took["mapped", 0]
    bars.table(
        f"**Sample -> (source, epoch, window), {count} sources: ns a sample, and how many times as long the chain in "
        "memory takes** (sources of 400,000 windows: one epoch; of 5,000 to 400,000: several)",
        "way", "bar", "one epoch", "times", "several epochs", "times", "holds",
    )  # fmt: skip
    bars.row("BlendCorpus' chain, a sample at a time, arrays in memory", "", f"{chain:,.0f}", "1", "", "")
    bars.row("the same, arrays mapped where it maps them", "", f"{mapped:,.0f}", f"{chain / mapped:.2f}", "", "")
    for label, (*_, bar) in WAYS.items():
        ours = [took[label, number] for number in range(len(streams))]
        cells = [cell for each in ours for cell in (f"{each:,.0f}", f"{chain / each:.1f}")]
        bars.row(label, str(bar or ""), *cells, holds=None if bar is None else max(ours) <= bar)


def map_times(
    streams: Sequence[Stream], weights: Sequence[float], folder: Path, draw: np.random.Generator
) -> dict[tuple[str, int], float]:
    """ns a sample of (way, number of the stream), and of the peer's chain as ("chain", 0) and ("mapped", 0)."""
    in_memory, mapped = peer_chain(np.array(weights), folder, draw)
    ways, samples = (
        {("chain", 0): (in_memory, 1), ("mapped", 0): (mapped, 1)},
        {("chain", 0): CALLS, ("mapped", 0): CALLS},
    )
    for label, (with_numba, block, served, blocks, _) in WAYS.items():
        for number, stream in enumerate(streams):
            ways[label, number] = (partial(locate_blocks, stream, with_numba, block, served, blocks), 3)
            samples[label, number] = blocks * served
    streams[0].locate(0, 1 << 20)  # numba compiles, or loads what it compiled
    seconds = best_in_turns(ways)
    del os.environ["KEEPWARM_NUMBA"]
    return {way: took / samples[way] * 1e9 for way, took in seconds.items()}


def locate_blocks(stream: Stream, with_numba: str, block: int, served: int, blocks: int) -> None:
    """Locate `blocks` blocks in a row, each `served` samples after the one before."""
    os.environ["KEEPWARM_NUMBA"] = with_numba
    for number in range(blocks):
        stream.locate(MIDDLE + number * served, MIDDLE + number * served + block)


def far_away(bars: Bars) -> None:
    """Sample 10^9 of 3,000 sources, and the ledger there."""
    draw, count, n = np.random.default_rng(4), 3000, 10**9
    wanted = dict(
        zip((f"{k:016x}" for k in range(count)), map(Fraction, draw.integers(1, 1000, count).tolist()), strict=True)
    )
    stream = fresh_stream(combine([(Fraction(1), wanted)]), fake_sources(wanted, Path("nowhere"), 40, 4000, draw))
    found, counts = triples(stream, n, n + 1)[0], (stream.cursors(n), stream.cursors(n + 1))
    name = f"{found[0]:016x}"
    length = stream.windows(name)
    place = int(positions(stream, name, found[1:2], found[2:3])[0])
    right = sum(counts[0].values()) == n and counts[0][name] == place == counts[1][name] - 1 and place // length > 0
    one, ledger = best(lambda: stream.locate(n, n + 1), 30), best(lambda: stream.cursors(n), 30)
    bars.table(f"**At sample {n:,} of {count:,} sources**", "what", "CPU ms", "holds")
    bars.row("locate it, bar 1", f"{one * 1e3:.2f}", holds=one <= 1e-3 and right)
    bars.row("all sources' counts before it", f"{ledger * 1e3:.2f}")


def peer_chain(
    weights: np.ndarray, folder: Path, draw: np.random.Generator
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The reference's chain for `CALLS` samples, in memory and mapped: corpora of 10 files, 2 M samples."""
    samples, per_corpus = 2_000_000, 10
    weights = weights / weights.sum()
    groups = np.array_split(weights, max(1, len(weights) // per_corpus))
    blend = indices(np.array([group.sum() for group in groups]), samples, "i8")
    used = np.bincount(blend[0], minlength=len(groups))
    corpora = [corpus_arrays(group, int(size * 1.005) + 1, draw) for group, size in zip(groups, used, strict=True)]

    def remapped(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        paths = [folder / f"{number}.npy" for number, _ in enumerate(arrays, start=len(list(folder.iterdir())))]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
        return [np.load(path, mmap_mode="r") for path in paths]

    order = range(samples // 2, samples // 2 + CALLS)
    mapped_corpora = [(*arrays[:3], [remapped(file) for file in arrays[3]]) for arrays in corpora]
    mapped_blend = remapped(blend)
    return partial(follow, order, *blend, corpora), partial(follow, order, *mapped_blend, mapped_corpora)


def corpus_arrays(weights: np.ndarray, samples: int, draw: np.random.Generator) -> tuple:
    """shuffle_index, dataset_index, dataset_sample_index, and the three arrays of each file of one corpus."""
    counts = np.maximum(np.ceil(weights / weights.sum() * samples).astype(np.int64), 1)
    dataset_index = np.repeat(np.arange(len(counts)), counts)
    dataset_sample_index = np.concatenate([np.arange(count) for count in counts])
    shuffle_index = draw.permutation(len(dataset_index))
    files = []
    for count in counts.tolist():
        shuffle_idx = draw.permutation(count).astype(np.uint32)
        sample_idx = np.stack([np.arange(count + 1) * 4, draw.integers(0, 1000, count + 1)], axis=1)
        files.append((shuffle_idx, sample_idx, draw.permutation(4 * count + 4).astype(np.int32)))
    return shuffle_index, dataset_index, dataset_sample_index, files


def follow(order: range, dataset_index: np.ndarray, dataset_sample_index: np.ndarray, corpora: list) -> None:
    """What BlendableDataset, BuildCorpusDataset and GPTDataset look up until a document is known."""
    for sample in order:
        shuffle_index, file_index, file_sample_index, files = corpora[dataset_index[sample]]
        place = shuffle_index[dataset_sample_index[sample]]
        shuffle_idx, sample_idx, doc_idx = files[file_index[place]]
        window = shuffle_idx[file_sample_index[place]]
        first, last = sample_idx[window][0], sample_idx[window + 1][0]
        _ = sample_idx[window][1], sample_idx[window + 1][1]
        _ = doc_idx[first], last


# 3. Accuracy


def family(kind: int, draw: np.random.Generator) -> list[int]:
    """Skewed integer weights of 2 to 39 sources."""
    count = int(draw.integers(2, 40))
    if kind == 0:
        shares = draw.dirichlet(np.full(count, draw.choice([0.1, 0.3, 1.0])))
    elif kind == 1:
        shares = np.arange(1, count + 1) ** -float(draw.uniform(0.5, 2.5))
    elif kind == 2:
        tail = draw.uniform(0.5, 1.5, count - 1)
        shares = np.concatenate([[tail.sum() * draw.uniform(2, 30)], tail])
    else:
        shares = float(draw.uniform(1.1, 2.5)) ** -np.arange(count)
    return np.maximum(np.rint(draw.permutation(shares) / shares.sum() * 1e6), 1).astype(np.int64).tolist()


def worst(weights: Sequence[int], blocks: Iterable[np.ndarray]) -> float:
    """The most that any source strays from its share, |count - n * share|, at every n of the blocks of sources."""
    shares, at = np.array(weights) / sum(weights), 0
    counts, most = np.zeros(len(weights), dtype=np.int64), 0.0
    for source in blocks:
        n = np.arange(at + 1, at + len(source) + 1)
        for leaf, share in enumerate(shares.tolist()):
            count = np.cumsum(source == leaf) + counts[leaf]
            most = max(most, float(np.abs(count - n * share).max()))
            counts[leaf] = count[-1]
        at += len(source)
    return most


def ours_of(tree: Interleave, stop: int) -> Iterable[np.ndarray]:
    block = 1 << 16
    for first in range(0, stop, block):
        yield tree.locate(np.arange(first, min(first + block, stop), dtype=np.uint64))[0]


def accuracy(bars: Bars) -> None:
    draw = np.random.default_rng(2)
    kinds = ("dirichlet", "zipf", "one dominant and a tail", "powers")
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    for number in range(FAMILIES):
        weights = family(number % len(kinds), draw)
        tree, shares = Interleave(weights), np.array(weights) / sum(weights)
        ours = worst(weights, ours_of(tree, PREFIX))
        greedy = worst(weights, [indices(shares, PREFIX)[0]])
        found[kinds[number % len(kinds)]].append((ours, greedy, float(tree.bound)))
    bars.table(
        f"**Worst |count - n * share| at every prefix up to {PREFIX:,}, {FAMILIES} families of 2 to 39 sources**",
        "weights", "families", "keepwarm", "its proven bound", "greedy (Megatron)", "holds",
    )  # fmt: skip
    for kind, rows in found.items():
        ours, greedy, bound = (max(column) for column in zip(*rows, strict=True))
        bars.row(kind, str(len(rows)), f"{ours:.3f}", f"{bound:.3f}", f"{greedy:.3f}")
    ours, greedy, bound = (max(c) for c in zip(*(row for rows in found.values() for row in rows), strict=True))
    cells = ("all, bar 1.5 and the greedy's", str(FAMILIES), f"{ours:.3f}", f"{bound:.3f}", f"{greedy:.3f}")
    bars.row(*cells, holds=ours <= min(1.5, greedy))
    long_prefixes(bars)


def long_prefixes(bars: Bars) -> None:
    families = {
        "replay 1 %": [1, 99],
        "thirds": [1, 1, 1],
        "one of 0.9 and 99 equal": [891, *[1] * 99],
        "zipf, 100": [10**9 // rank for rank in range(1, 101)],
        "powers of 3, 20": [3**k for k in range(20)],
        "a millionth": [1, 10**6 - 1],
        "primes, 10": [2, 3, 5, 7, 11, 13, 17, 19, 23, 29],
    }
    bars.table(f"**The same at every prefix up to {LONG_PREFIX:,}**", "weights", "keepwarm, bar 1.5", "bound", "holds")
    for label, weights in families.items():
        tree = Interleave(weights)
        most = worst(weights, ours_of(tree, LONG_PREFIX))
        bars.row(label, f"{most:.3f}", f"{float(tree.bound):.3f}", holds=most <= min(1.5, float(tree.bound) + 1e-3))


# 4. The same samples, whoever asks


def stages(draw: np.random.Generator, names: Sequence[str]) -> list[Mixture]:
    """Three mixtures: of some sources; without one of them, with others and other weights; and again so."""
    fed = [names[:6], [*names[1:6], *names[6:9]], [names[0], *names[3:8], *names[9:]]]
    mixes = []
    for each in fed:
        weights = draw.integers(1, 1000, len(each)).tolist()
        total = sum(weights)
        mixes.append(combine([(Fraction(1), {n: Fraction(w, total) for n, w in zip(each, weights, strict=True)})]))
    return mixes


def staged(draw: np.random.Generator, samples: int) -> Stream:
    """A stream of three segments over twelve sources, of few windows: several epochs of some."""
    names = [f"{number:016x}" for number in range(12)]
    sources = fake_sources(names, Path("nowhere"), 40, 4000, draw)
    mixes = stages(draw, names)
    stream = Stream([Segment(0, mixes[0])], sources, 7, SEQUENCE)
    for start, mixture in zip(sorted(draw.choice(samples - 1, 2, replace=False) + 1), mixes[1:], strict=True):
        segments = [*stream.segments, next_segment(stream, int(start), mixture)]
        stream = Stream(segments, sources, 7, SEQUENCE)
    return stream


def triples(stream: Stream, start: int, stop: int) -> np.ndarray:
    """(source, epoch, window) of samples, (N, 3), the source by its id so that numbering plays no part."""
    found = stream.locate(start, stop)
    names = np.array([int(name, 16) for name in found.source_ids])
    return np.stack([names[found.source_index], found.epoch, found.window], axis=1)


def digest(rows: Iterable[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(each.astype("<i8").tobytes() for each in rows)).hexdigest()


def reopened(stream: Stream) -> Stream:
    """The stream again, from what a record of its segments says in JSON."""
    kept = json.dumps([(s.first_sample, s.mixture.as_dict(), s.cursors) for s in stream.segments])
    segments = [
        Segment(first, Mixture.from_dict(mixture), tuple((name, count) for name, count in cursors))
        for first, mixture, cursors in json.loads(kept)
    ]
    return Stream(segments, stream.sources, stream.seed, stream.sequence_length)


def by_ranks(ranks: Sequence[Stream], batch: int, start: int, stop: int) -> Iterable[np.ndarray]:
    """What the ranks of a world are fed of [start, stop), batch after batch, each asking for its own slice."""
    share = batch // len(ranks)
    for first in range(start, stop, batch):
        for number, rank in enumerate(ranks):
            yield triples(rank, first + number * share, first + (number + 1) * share)


def same_samples(bars: Bars) -> None:
    draw = np.random.default_rng(3)
    samples = GLOBAL_BATCH * STEPS
    stream = staged(draw, samples)
    plans = [staged(draw, samples) for _ in range(20)]
    wanted = digest([triples(stream, 0, samples)])
    bars.table(
        f"**The same samples** ({samples:,} samples, 12 sources in 3 segments)", "property", "checked", "equal", "holds"
    )
    equal = [digest(by_ranks([reopened(stream)] * world, GLOBAL_BATCH, 0, samples)) == wanted for world in WORLDS]
    said = f"world sizes {', '.join(map(str, WORLDS))}; global batch {GLOBAL_BATCH}"
    bars.row("world size", said, counted(equal), holds=all(equal))
    stops = draw.integers(1, samples, 60).tolist()
    equal = [digest([triples(stream, 0, n), triples(reopened(stream), n, samples)]) == wanted for n in stops]
    bars.row(
        "stop anywhere, resume from the segments", f"{len(stops)} random samples", counted(equal), holds=all(equal)
    )
    equal = [digest([in_attempts(each)]) == digest([triples(each, 0, samples)]) for each in plans]
    bars.row("three attempts instead of three segments", f"{len(plans)} random plans", counted(equal), holds=all(equal))
    equal = [digest(changing(stream, samples, draw)) == wanted for _ in range(20)]
    bars.row("batch, world and process changed midway", f"{len(equal)} runs, 4 to 8 changes", counted(equal),
             holds=all(equal))  # fmt: skip
    told = stream.digest(0, samples)
    runs = [dict(PYTHONHASHSEED="1", KEEPWARM_NUMBA="0"), dict(PYTHONHASHSEED="2")]
    equal = [child("--digest", str(samples), **run) == told for run in runs]
    bars.row("Stream.digest in other processes", "another hash seed; numpy, numba", counted(equal), holds=all(equal))
    consecutive(bars, draw)


def counted(results: Sequence[bool]) -> str:
    return f"{sum(results)} of {len(results)}"


def changing(stream: Stream, samples: int, draw: np.random.Generator) -> Iterable[np.ndarray]:
    """A run that is stopped and goes on with another batch on another number of ranks, several times."""
    changes = int(draw.integers(4, 9))
    at = 0
    for left in range(changes, -1, -1):
        world = int(draw.choice([1, 2, 3, 4, 6, 8, 12]))
        batch = world * int(draw.integers(1, 20))
        steps = int(draw.integers(1, 60)) if left else (samples - at) // batch
        stop = min(at + steps * batch, at + (samples - at) // batch * batch)
        yield from by_ranks([reopened(stream)] * world, batch, at, stop)
        at = stop
    if at < samples:
        yield triples(stream, at, samples)


def in_attempts(stream: Stream, stops: Sequence[int] = ()) -> np.ndarray:
    """All samples, each mixture fed by an attempt of its own that begins with the cursors which the last one left.

    At `stops` another attempt begins with the same mixture: it counts anew, so the sources take other turns.
    """
    starts = [segment.first_sample for segment in stream.segments]
    samples, cursors, rows = GLOBAL_BATCH * STEPS, dict(stream.segments[0].cursors), []
    for first, end in pairwise(sorted({*starts, *stops, samples})):
        mixture = stream.segments[sum(start <= first for start in starts) - 1].mixture
        attempt = Stream([Segment(0, mixture, tuple(cursors.items()))], stream.sources, stream.seed, SEQUENCE)
        rows.append(triples(attempt, 0, end - first))
        cursors = attempt.cursors(end - first)
    return np.concatenate(rows)


def consecutive(bars: Bars, draw: np.random.Generator) -> None:
    """Gaps, repeats and places out of turn of each source over random plans of three stages."""
    plans, samples = 20, GLOBAL_BATCH * STEPS
    fed = {"segments of one attempt": 0, "attempts, two more at random places": 0}
    wrong = {key: np.zeros(4, dtype=np.int64) for key in fed}
    for _ in range(plans):
        stream = staged(draw, samples)
        rows = triples(stream, 0, samples), in_attempts(stream, draw.integers(1, samples, 2).tolist())
        for key, found in zip(fed, rows, strict=True):
            wrong[key] += sum(faults(stream, f"{name:016x}", found) for name in np.unique(found[:, 0]).tolist())
            fed[key] += len(found)
    bars.table(
        f"**Sources that come and go** ({plans} random plans of three stages, 12 sources: added, removed, brought "
        "back, reweighted)",
        "stages are", "samples", "gaps in a source", "repeats in a source", "samples out of its turn",
        "whole epochs not whole", "holds",
    )  # fmt: skip
    for key, found in wrong.items():
        bars.row(key, f"{fed[key]:,}", *(str(each) for each in found.tolist()), holds=not found.any())


def faults(stream: Stream, name: str, rows: np.ndarray) -> np.ndarray:
    """Of one source: its gaps, repeats, samples out of turn, and epochs that miss a window or hold one twice."""
    epoch, window = rows[rows[:, 0] == int(name, 16), 1:].T
    position = positions(stream, name, epoch, window)
    once = len(np.unique(position))
    moved = int((position != np.arange(len(position))).sum())
    gaps, repeats = int(position.max()) + 1 - once, len(position) - once
    return np.array([gaps, repeats, moved, incomplete(epoch, window, stream.windows(name))])


def positions(stream: Stream, name: str, epoch: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The positions in the source that these epochs and windows are, by inverting the order of each epoch."""
    length, position = stream.windows(name), np.empty(len(epoch), dtype=np.int64)
    for turn in np.unique(epoch).tolist():
        index_of = np.empty(length, dtype=np.int64)
        index_of[permute(np.arange(length), length, window_key(stream.seed, name, turn))] = np.arange(length)
        here = epoch == turn
        position[here] = turn * length + index_of[window[here]]
    return position


def incomplete(epoch: np.ndarray, window: np.ndarray, length: int) -> int:
    """Epochs before the last that do not hold every window once; the last must not hold one twice."""
    last = int(epoch.max(initial=0))
    read = np.bincount(epoch * length + window, minlength=(last + 1) * length).reshape(last + 1, length)
    return int((read[:-1] != 1).any(axis=1).sum()) + int((read[-1] > 1).any())


def main() -> int:
    """Measure and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=parse_count, default=20_000_000)
    parser.add_argument("--sources", type=int, default=100)
    asked = parser.parse_args()
    bars = Bars()
    cold_start(bars, asked.samples, asked.sources)
    map_speed(bars, asked.sources)
    far_away(bars)
    accuracy(bars)
    same_samples(bars)
    print(f"\n{'all bars hold' if bars.all_hold else 'NOT all bars hold'}")
    return 0 if bars.all_hold else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cold"]:
        cold(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--digest"]:
        print(staged(np.random.default_rng(3), int(sys.argv[2])).digest(0, int(sys.argv[2])))
    else:
        sys.exit(main())
