"""Where documents begin and end inside a window, told by the document-end tokens in it.

A window is cut from documents that stand one after the other. The position of a token within its document is what a
model needs to keep documents apart: positions restart, and attention stays where they rise by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def document_positions(tokens: NDArray[np.int64], eod: int) -> NDArray[np.int64]:
    """Position of every token within its document, (N, S) for tokens (N, S); a window's first token has position 0.

    The document end belongs to the document that it ends.
    """
    index = np.arange(tokens.shape[1])
    begins = np.zeros(tokens.shape, dtype=np.int64)
    begins[:, 1:] = np.where(tokens[:, :-1] == eod, index[1:], 0)
    return index - np.maximum.accumulate(begins, axis=1)
