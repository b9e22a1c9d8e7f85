"""Tokenizers: any `tokenizer.json`, through Hugging Face `tokenizers`, or a byte-level BPE learned here.

Text that spells a special token ("<|endoftext|>") is encoded as text, never as the token: no document can forge a
document end. How often that was needed is counted and reported.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora.fast import Flat
from keepwarm.errors import DataError, PlanError

END_OF_DOCUMENT = "<|endoftext|>"
_KNOWN_ENDS = (
    END_OF_DOCUMENT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)


@dataclass(frozen=True, eq=False, slots=True)
class Tokenizer:
    """A loaded tokenizer. `vocab_size` counts added tokens too."""

    path: Path
    sha256: str
    vocab_size: int
    eod_id: int
    eod_token: str
    special: tuple[str, ...]
    backend: Any
    byte_level: bool

    def encode(self, texts: Sequence[str]) -> Flat:
        """Token ids of all texts one after the other, without any special token, and where each text's ids end."""
        found = [each.ids for each in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        ends = np.cumsum([len(ids) for ids in found], dtype=np.int64)
        flat = array("I")
        for ids in found:
            flat.fromlist(ids)
        return np.asarray(flat), ends

    def special_ids(self, value: Any) -> list[int]:
        """Of the ids under a key of a model's config, those of special tokens: a config nobody filled in has others."""
        ids = value if isinstance(value, list) else [value]
        return [each for each in ids if isinstance(each, int) and self.backend.id_to_token(each) in self.special]

    def text_bytes(self, ids: Sequence[int]) -> int:
        """UTF-8 bytes of the text that the ids stand for, document ends not counted."""
        kept = [each for each in ids if each != self.eod_id]
        if self.byte_level:  # each character of a byte-level token stands for one byte, also where ids cut a character
            return sum(len(self.backend.id_to_token(each)) for each in kept)
        return len(self.backend.decode(kept, skip_special_tokens=False).encode())


def load_tokenizer(path: Path | str, eod: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json` or a folder that holds one. `eod` names the document end where it can't be told.

    Raises DataError for a file that is none, PlanError for a document end that it lacks or that is no special token.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Backend

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    try:
        data = file.read_bytes()
        backend = Backend.from_buffer(data)
        content = json.loads(data)
    except OSError as error:
        raise DataError(
            f"{file}: {(error.strerror or 'can not be read').lower()}", "text can't be turned into tokens without it",
            "tokenizer: {file: tokenizer.json}",
        ) from None  # fmt: skip
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{file}: not a tokenizer.json ({error})", "it can't be loaded", "save it again") from None
    special = tuple(str(item["content"]) for item in content.get("added_tokens", []) if item.get("special"))
    token = eod or _end(file, backend, special)
    eod_id = backend.token_to_id(token)
    if eod_id is None:
        raise _no_end(file, f"has no token {token!r}", special)
    if token not in special:  # text could spell it, and so forge a document end
        raise _no_end(file, f"does not say that {token!r} is a special token", special)
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()
    decoder = (content.get("decoder") or {}).get("type")
    sha256 = files.sha256_file(file)
    return Tokenizer(
        file,
        sha256,
        backend.get_vocab_size(with_added_tokens=True),
        eod_id,
        token,
        special,
        backend,
        decoder == "ByteLevel",
    )


def _end(file: Path, backend: Any, special: tuple[str, ...]) -> str:
    """The document end: what tokenizer_config.json says, else the one well-known name that the vocabulary has."""
    config = file.parent / "tokenizer_config.json"
    if config.is_file():
        named = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
        named = named.get("content") if isinstance(named, dict) else named
        if isinstance(named, str):
            return named
    found = [name for name in _KNOWN_ENDS if backend.token_to_id(name) is not None]
    if len(found) == 1:
        return found[0]
    raise _no_end(file, "does not say which token ends a document", special)


def _no_end(file: Path, what: str, special: tuple[str, ...]) -> PlanError:
    return PlanError(
        f"tokenizer: {file} {what}",
        "documents would run into each other",
        f"--eod TOKEN, in a plan tokenizer: {{eod: TOKEN}}, with one of its special tokens: "
        f"{', '.join(special[:12]) or 'it has none'}",
    )


def spelled(special: Sequence[str]) -> Callable[[str], int]:
    """A function that counts how often a text spells one of the `special` tokens (from left to right, the longest).

    Tokens are grouped by their first two characters, so that the usual text, which holds none of these pairs, costs a
    few searches however many tokens there are (some vocabularies have hundreds).
    """
    groups: dict[str, list[str]] = {}
    for token in special:
        groups.setdefault(token[:2], []).append(token)
    patterns = {
        start: re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
        for start, tokens in groups.items()
    }

    def count(text: str) -> int:
        return sum(len(pattern.findall(text)) for start, pattern in patterns.items() if start in text)

    return count


def train_tokenizer(texts: Iterator[str], vocab_size: int, path: Path) -> None:
    """Learn a byte-level BPE with the document end as id 0, and write it to `path`. The same text gives the same file."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_DOCUMENT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    files.write_text(path, backend.to_str())
