"""Arrays on disk as `.npy`: written aside and renamed, a full disk told as such.

`np.save` to a path writes with `tofile`, whose error for a full disk carries no reason; so the bytes are made first.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepwarm import files
from keepwarm.errors import DataError


def save_array(path: Path, array: NDArray[Any], *, replace: bool = False) -> None:
    """Write `array` to `path` atomically. KeepwarmError if the disk refuses, or if `path` has other content."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    files.write_bytes(path, content.getvalue(), replace=replace)


def load_array(path: Path, dtype: Any) -> NDArray[Any]:
    """The array in `path`; DataError if it is missing, damaged or not of `dtype`."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        if array.dtype != np.dtype(dtype):
            raise ValueError(f"it holds {array.dtype}, not {np.dtype(dtype)}")
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not an array that keepwarm wrote ({reason})",
            "it says which documents are the same, or which may be trained on",
            f"make what it belongs to again; the file can go: rm {path}",
        ) from None
    return array
