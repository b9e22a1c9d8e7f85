"""A faster tokenizer library, used where it proves identical to Hugging Face `tokenizers` on the user's own text.

fastokens reads the same tokenizer.json. Before it is trusted with a corpus, the corpus's first documents are encoded
by both; while it works, one document in a thousand is. One difference, and the reference does all of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = "fastokens"
SAMPLE_CHARACTERS = 1 << 20  # encoded by both at the start, and at most of a longer document after that
CHECKED_EVERY = 1000  # documents after that
Flat = tuple[NDArray[np.uint32], NDArray[np.int64]]  # ids of all texts, and where each text's ids end


class Differs(Exception):
    """The library gave other ids than the reference."""


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """Which library encodes a corpus, and why: the fast one's tokenizer, or None for the reference."""

    backend: Any
    why: str


def choose(path: Path, reference: Callable[[Sequence[str]], Flat], sample: Sequence[str]) -> Choice:
    """Whether the fast library may encode this corpus: it is installed, reads the tokenizer and agrees on `sample`."""
    try:
        version = importlib.metadata.version(LIBRARY)
        backend = load(path)
    except ImportError:
        return Choice(None, f'{LIBRARY} is not installed (pip install "keepwarm[fast]")')
    except Exception as error:  # whatever a foreign library raises: the reference can do the work
        return Choice(None, f"{LIBRARY} can't read this tokenizer ({' '.join(str(error).split())[:80]})")
    measured = sum(len(text.encode()) for text in sample)
    if not measured:
        return Choice(None, f"there is no text to hold {LIBRARY} against tokenizers")
    try:
        check(encode(backend, sample), reference(sample))
    except Differs:
        return Choice(None, f"{LIBRARY} {version} gives other ids than tokenizers on a sample of the text")
    return Choice(backend, f"{LIBRARY} {version}, equal to tokenizers on the first {measured:,} bytes")


def beginning(text: str) -> str:
    """The text, or as much of a long one as both libraries encode: about a megabyte of whole lines."""
    head = text[:SAMPLE_CHARACTERS]
    return text if len(head) == len(text) else head[: head.rfind("\n") + 1] or head


def load(path: Path) -> Any:
    """The tokenizer of a `tokenizer.json` in the fast library. Raises ImportError where it is not installed."""
    backend = importlib.import_module(LIBRARY).Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    return backend


def encode(backend: Any, texts: Sequence[str]) -> Flat:
    """Ids of the texts, special tokens that they spell encoded as text."""
    ids, offsets = backend.encode_batch_flat(list(texts), add_special_tokens=False, split_special_tokens=True)
    return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")[1:].astype(np.int64)


def check(found: Flat, wanted: Flat) -> None:
    """Raise Differs unless both are equal."""
    if not (np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])):
        raise Differs
