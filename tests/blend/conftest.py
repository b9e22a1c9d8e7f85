"""Token files small enough to check by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from keepwarm.corpora.indexed import IndexedWriter, source_id
from keepwarm.corpora.source import Source

MakeSource = Callable[..., Source]


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """make_source(name, documents, held_out=[], dtype): a token file in tmp_path, its held-out documents left out."""

    def make(
        name: str, documents: Sequence[Sequence[int]], held_out: Sequence[int] = (), dtype: type = np.uint16
    ) -> Source:
        prefix = tmp_path / name
        with IndexedWriter(prefix, np.dtype(dtype)) as writer:
            for document in documents:
                writer.add(np.array(document, dtype=dtype))
        ends = np.cumsum([len(document) for document in documents])
        spans = [
            (int(end) - len(document), int(end))
            for number, (end, document) in enumerate(zip(ends, documents, strict=True))
            if number not in held_out
        ]
        return Source(name, source_id(prefix), prefix, np.array(spans, dtype=np.int64).reshape(-1, 2))

    return make
