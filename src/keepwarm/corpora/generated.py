"""Text that the base writes itself, as a token file: what stands in for a D_0 whose data is not there.

It is sampled in batches (engine/generate.py), each drawn by its own seed and kept as soon as it is there: a kill loses
one batch, and the next call goes on and writes what it would have written. The last document is cut where the tokens
asked for are reached, so that a plan knows the size before there is any. The sidecar's `source_files` says which model
wrote the text, and how.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.corpora.arrays import load_array, save_array
from keepwarm.corpora.hashing import derive_key
from keepwarm.corpora.indexed import IndexedWriter, Sidecar, best_dtype, pair, read_sidecar
from keepwarm.corpora.names import remove
from keepwarm.corpora.tokenize import Tell
from keepwarm.corpora.tokenizer import Tokenizer
from keepwarm.errors import KeepwarmError
from keepwarm.plan.corpus import GenerateSpec
from keepwarm.units import format_count

TOLD_TIMES = 10  # how often the progress is told, about
_DONE = "the text that the base wrote"


class Sampler(Protocol):
    """The base, as a writer of documents. `facts` identify it: its place, its weights, and what decides its last bits."""

    facts: dict[str, Any]

    def documents(self, seed: int) -> Sequence[Sequence[int]]:
        """A batch of documents as they were sampled: each ends with a document end, or where it was longest."""


MakeSampler = Callable[[GenerateSpec, Tokenizer], Sampler]


def write_generated(
    name: str,
    spec: GenerateSpec,
    make: MakeSampler | None,
    tokenizer: Tokenizer,
    prefix: Path,
    *,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """Sample `spec.tokens` tokens to `prefix`.bin/.idx unless they are there; who wrote them, how, and at what cost.

    Raises KeepwarmError where nothing can write them: `make` is None in a command that trains nothing.
    """
    asked = {**spec.model_dump(mode="json"), "seed": seed, "tokenizer_sha256": tokenizer.sha256}
    if (found := _made(prefix, asked)) is not None:
        return found
    if make is None:
        raise KeepwarmError(
            f"corpora.{name}.generate: {_DONE} is not there yet",
            "it is sampled from the base before anything is trained on it",
            "keepwarm run PLAN makes it, and goes on",
        )
    remove(prefix)
    sampler = make(spec, tokenizer)
    facts = {**sampler.facts, **asked}
    folder = prefix.with_name(f"{prefix.name}.batches.partial")
    _begin(folder, facts, name, tell)
    batches = _sampled(name, spec, sampler, folder, seed, tell)
    facts["sampled_tokens"] = int(sum(len(document) for batch in batches for document in batch))
    _write([document for batch in batches for document in batch], spec.tokens, tokenizer, prefix, facts)
    shutil.rmtree(folder)
    return facts


def _made(prefix: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What wrote the token file that is there, if it is what is asked for."""
    sidecar = read_sidecar(prefix) if all(path.exists() for path in pair(prefix)) else None
    if sidecar is None or not sidecar.source_files:
        return None
    facts = sidecar.source_files[0]
    return facts if asked.items() <= facts.items() else None


def _begin(folder: Path, facts: dict[str, Any], name: str, tell: Tell) -> None:
    """The folder of the batches, empty unless they are of the same model and settings."""
    path, text = folder / "settings.json", json.dumps(facts, sort_keys=True)
    if path.exists() and json.dumps(json.loads(path.read_text("utf-8")), sort_keys=True) != text:
        tell(f"{name}: the model or the settings of its text changed; nothing was trained yet, so it is begun again")
        shutil.rmtree(folder)
    files.write_json(path, facts, replace=True)
    done = len(list(folder.glob("*.npy")))
    if done:
        tell(f"{name}: going on, {done} batches are there")


def _sampled(
    name: str, spec: GenerateSpec, sampler: Sampler, folder: Path, seed: int, tell: Tell
) -> list[list[NDArray[np.int64]]]:
    """Batches until there are tokens enough; each is kept when it is there."""
    tell(f"{name}: the base writes {spec.tokens:,} tokens at temperature {spec.temperature:g}")
    found: list[list[NDArray[np.int64]]] = []
    have = new = 0
    told, began = 0, time.perf_counter()
    while have < spec.tokens:
        path = folder / f"{len(found):06d}.npy"
        if not path.exists():
            documents = sampler.documents(derive_key("generate", seed, len(found)))
            save_array(path, _packed(documents))
            new += sum(map(len, documents))
        found.append(_unpacked(load_array(path, np.int64)))
        have += sum(map(len, found[-1]))
        if have * TOLD_TIMES // spec.tokens > told:
            told = have * TOLD_TIMES // spec.tokens
            rate = format_count(round(new / max(1e-9, time.perf_counter() - began)))
            tell(f"{name}: {min(have, spec.tokens):,} of {spec.tokens:,} tokens sampled, {rate} tokens/s")
    return found


def _packed(documents: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """How many, how long, and their tokens, in a row."""
    sizes = [len(document) for document in documents]
    return np.array([len(sizes), *sizes, *(token for document in documents for token in document)], dtype=np.int64)


def _unpacked(packed: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    count = int(packed[0])
    ends = list(accumulate(packed[1 : 1 + count].tolist(), initial=1 + count))
    return [packed[start:end] for start, end in pairwise(ends)]


def _write(
    documents: Sequence[NDArray[np.int64]], tokens: int, tokenizer: Tokenizer, prefix: Path, facts: dict[str, Any]
) -> None:
    text_bytes = count = 0
    with IndexedWriter(prefix, best_dtype(tokenizer.vocab_size)) as writer:
        for document in documents:
            kept = document[: tokens - writer.tokens]
            if len(kept):
                writer.add(kept)
                count, text_bytes = count + 1, text_bytes + tokenizer.text_bytes(kept.tolist())
        writer.sidecar = Sidecar(
            tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, eod=tokenizer.eod_id, documents=count,
            tokens=writer.tokens, text_bytes=text_bytes, content_id=writer.content_id(), source_files=[facts],
        )  # fmt: skip
