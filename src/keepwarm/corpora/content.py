"""That a token file still holds what was written down of it: looked at where it is first used, or was touched since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from keepwarm import files
from keepwarm.corpora.indexed import IndexedFile, open_indexed, pair, read_sidecar, sidecar_path, source_id
from keepwarm.corpora.lenient import scan
from keepwarm.corpora.tokenize import Progress, Tell
from keepwarm.errors import DataError

READ_WHOLE_BYTES = 20_000_000_000  # of .bin: under a minute; larger ones are held against their sidecar by sizes only

Bar = Callable[[str], AbstractContextManager[tuple[Tell, Progress]]]  # shows how far something is, while it lasts


def check_content(prefix: Path, tell: Tell, bar: Bar | None = None) -> None:
    """Refuse a token file that does not hold what its sidecar was written for; without a sidecar nothing is known."""
    sidecar, opened, size = read_sidecar(prefix), open_indexed(prefix), pair(prefix)[0].stat().st_size
    if sidecar is None:
        return
    for what, said, there in (
        ("tokens", sidecar.tokens, opened.n_tokens),
        ("documents", sidecar.documents, opened.n_documents),
    ):
        if said != there:
            raise _differs(prefix, f"{said:,} {what}, the pair has {there:,}")
    if size > READ_WHOLE_BYTES:
        tell(f"{prefix}: {size / 1e9:,.0f} GB, checked by sizes only; keepwarm data verify {prefix} reads all of it")
        return
    with bar(f"checking {prefix.name}") if bar else nullcontext((None, None)) as (_, progress):
        found = _content_id(opened, progress)
    if found != sidecar.content_id:
        raise _differs(prefix, f"content {sidecar.content_id}, the pair has {found}")


def unchanged(record: Mapping[str, Any], touched: Sequence[Path], tell: Tell) -> bool:
    """Whether `touched` files hold what they held when the token file of `record` was made of them, or from them."""
    prefix = Path(record["prefix"])
    if record["text"]:
        sidecar = read_sidecar(prefix)
        made_of = {item["path"]: item["sha256"] for item in sidecar.source_files} if sidecar else {}
        return all(made_of.get(str(path)) == files.sha256_file(path) for path in touched)
    check_content(prefix, tell)
    return source_id(prefix) == str(record["id"])


def _content_id(opened: IndexedFile, progress: Progress | None) -> str:
    """As IndexedWriter.content_id told it."""
    _, digest = scan(pair(opened.prefix)[0], (), vocab_size=None, eod=None, progress=progress)
    for numbers in (opened.lengths, opened.document_indices):
        digest.update(np.ascontiguousarray(numbers, "<i8").data)
    return str(digest.hexdigest())


def _differs(prefix: Path, what: str) -> DataError:
    return DataError(
        f"{sidecar_path(prefix)}: says {what}",
        "tokens or document ends were changed since it was written: what would be trained on is not what it says",
        f"keepwarm data verify {prefix}, then restore the file or make it again",
    )
