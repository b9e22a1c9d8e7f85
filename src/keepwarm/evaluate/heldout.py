"""Held-out losses: fixed windows of every corpus, measured the same way before, during and after a stage.

The model is a callable that gives the mean loss of each window, so this room needs no torch. Losses are nats per
token; bits per byte = loss / ln 2 * tokens / bytes, the one unit that compares across tokenizers. When they are
measured belongs to the attempt (attempt/timing.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepwarm.corpora.indexed import open_indexed

Losses = Callable[[NDArray[np.int64]], NDArray[np.float64]]  # (windows, S + 1) tokens -> (windows,) nats per token


@dataclass(frozen=True, eq=False, slots=True)
class HeldOut:
    """The held-out windows of one corpus, shape (windows, sequence_length + 1)."""

    corpus: str
    windows: NDArray[np.int64]
    tokens_per_byte: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Loss of one corpus in nats per token: the mean, and that of each window it was measured on."""

    loss: float
    windows: tuple[float, ...]


def load_heldout(corpus: str, prefix: Path, sequence_length: int, text_bytes: int | None, tokens: int) -> HeldOut:
    """Cut a holdout's token file into its fixed windows (as training windows are cut)."""
    stream = open_indexed(prefix).tokens
    count = (len(stream) - 1) // sequence_length
    starts = np.arange(count)[:, None] * sequence_length
    windows = np.asarray(stream[starts + np.arange(sequence_length + 1)], dtype=np.int64)
    return HeldOut(corpus, windows, tokens / text_bytes if text_bytes else None)


def subset(count: int, size: int) -> NDArray[np.int64]:
    """`size` fixed window numbers, evenly spaced over `count`."""
    return np.unique((np.arange(min(size, count)) * count) // max(1, min(size, count)))


def gap(windows: NDArray[np.float64], size: int) -> float:
    """The mean over all windows less that over the subset of `size`: what a measurement on the way does not see."""
    return float(windows.mean() - windows[subset(len(windows), size)].mean())


def measure(heldout: HeldOut, losses: Losses, size: int | None = None) -> Measured:
    """Loss over all windows, or over the fixed subset of `size`."""
    chosen = heldout.windows if size is None else heldout.windows[subset(len(heldout.windows), size)]
    values = losses(chosen)
    assert values.shape == (len(chosen),)
    return Measured(float(values.mean()), tuple(round(float(value), 6) for value in values))


def bits_per_byte(loss: float, tokens_per_byte: float | None) -> float | None:
    """Nats per token as bits per byte of text; None where the text's bytes are not known."""
    return None if tokens_per_byte is None else loss / math.log(2) * tokens_per_byte
