"""Where the reference trainer's shuffles put a sample, so that a file can be laid out for them.

BlendCorpus gives a file of a list `given` samples and reads them in an order that follows from the run's seed alone.
The files of a corpus stand one behind the other and are shuffled as one row (--shuffle-sample-in-corpus). In a file,
the sequences of the training part are shuffled, put in a row, and cut every `sequence_length` tokens, each sample with
the first token of the next one as its last target; then the samples are shuffled. All by NumPy's RandomState, whose
streams are frozen. Held against recordings of the loader in tests/blend/test_trainer_order.py.

So when the sequences of a file are whole windows, or pieces of windows, the sample that is drawn t-th can be made any
window: put its pieces where the shuffles draw them. It holds for one epoch of the file, so a file has one window more
than samples are given: the last window lends its first token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED = 1234  # the trainer's --seed when it is given none
SPLIT = "990,10,0"  # per mille of a file's sequences that train, validate and test, as train_alcf.sh passes them
FEWEST_TRAINING = 50  # sequences: with fewer, no sequence is left to validate on, and the trainer ends


def drawn(given: Sequence[int], seed: int = SEED, *, shuffled: bool = True) -> tuple[NDArray[np.int64], ...]:
    """File and number within the file of the sample that is drawn t-th of a corpus: two arrays (sum(given),)."""
    ends = np.cumsum(np.array(given, dtype=np.int64))
    row = np.arange(ends[-1])
    if shuffled:
        np.random.RandomState(seed).shuffle(row)
    file = np.searchsorted(ends, row, side="right")
    return file, row - (ends - np.array(given, dtype=np.int64))[file]


def shuffled_file(pieces: int, windows: int, seed: int = SEED) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How a file of `pieces` training sequences that make up `windows` windows is read.

    (pieces,): which sequence stands at each place of the row; (windows - 1,): at which window of the row, counted from
    0, the file's sample of each number begins.
    """
    random = np.random.RandomState(seed)
    sequence = np.arange(pieces)
    random.shuffle(sequence)
    window = np.arange(windows - 1)
    random.shuffle(window)
    return sequence, window


def training_part(sequences: int) -> int:
    """How many of a file's sequences train, the first ones, by SPLIT; the trainer rounds the validating part."""
    return sequences - round(0.01 * float(sequences))


def validating_for(training: int) -> int:
    """How many sequences behind `training` ones make just these the training part; at least one."""
    assert training >= FEWEST_TRAINING, training
    count = max(1, training // 99 - 1)
    while training_part(training + count) < training:
        count += 1
    assert training_part(training + count) == training, (training, count)
    return count
