"""Plain values out of a torch checkpoint, without torch and without running what the file says.

A `.pt` file is a zip whose `*/data.pkl` holds everything but the numbers of its tensors. Unpickling may call whatever a
file names, so here every name but a few containers stands for a class of no effect: it keeps what it was called with
and the attributes it was given, and does nothing. A tensor becomes its shape and dtype. Nothing else of the zip is read,
so a file of many GB costs what its data.pkl costs.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm.errors import LineageError

MOST_PICKLE_BYTES = 1 << 28  # a trillion-parameter model's names and shapes fit; what is larger is no such record
_CONTAINERS: Mapping[tuple[str, str], type] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "tuple"): tuple,
}
_PASSES_ITS_TENSOR_ON = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
_REBUILDS = {"_rebuild_tensor", "_rebuild_tensor_v2"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's shape and dtype (`float32`, `bfloat16`); its numbers stay in the file."""

    shape: tuple[int, ...]
    dtype: str


class Inert:
    """What stands for an object of a class that is not known here: the arguments of its making, and its attributes."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        """Keep the arguments."""
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Keep attributes; the state of an object with a form of its own is let go."""
        if isinstance(state, dict):
            vars(self).update((key, value) for key, value in state.items() if isinstance(key, str))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of an unknown container are let go."""

    def append(self, value: Any) -> None:
        """As items."""

    def extend(self, values: Any) -> None:
        """As items."""

    def add(self, value: Any) -> None:
        """As items."""


def read_pickled(path: Path) -> Any:
    """The content of a torch file, in which unknown objects are `Inert` and tensors `Tensor`.

    LineageError if the file is missing, cut short, of torch's format before 1.6, or not a torch file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = _record(archive)
            if record is None or record.file_size > MOST_PICKLE_BYTES:
                raise _refused(path, "holds no data.pkl of a usual size" if record else "holds no data.pkl")
            data = archive.read(record)
    except zipfile.BadZipFile:
        raise _not_a_zip(path) from None
    except OSError as error:
        raise _refused(path, (error.strerror or "can't be read").lower()) from None
    try:
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise _refused(path, f"its data.pkl is damaged ({type(error).__name__}: {error})") from None


def attributes(value: Any) -> Mapping[str, Any]:
    """The attributes of an object that was pickled with them, such as an argparse.Namespace; of a dict its items."""
    found = value if isinstance(value, dict) else vars(value) if isinstance(value, Inert) else {}
    return {key: each for key, each in found.items() if isinstance(key, str)}


def is_whole(path: Path) -> bool:
    """True for a zip with its directory, which is written last: a file that was cut short has none."""
    return path.is_file() and zipfile.is_zipfile(path)


class _Reader(pickle.Unpickler):
    """Gives containers, and for every other name a class of no effect made for this one reading."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Imports nothing."""
        if module.startswith("torch._utils") and name in _REBUILDS:
            return _tensor
        if module.startswith("torch._utils") and name in _PASSES_ITS_TENSOR_ON:
            return _first
        known = _CONTAINERS.get((module, name))
        if known is None:
            known = self._made.setdefault((module, name), type(name.rpartition(".")[2], (Inert,), {}))
        return known

    def persistent_load(self, pid: Any) -> Any:
        """A storage, as the dtype of its class: FloatStorage -> float32."""
        kind, storage = pid[:2]
        return _STORAGES.get(storage.__name__, storage.__name__) if kind == "storage" else Inert(*pid)


_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


def _tensor(storage: Any, offset: Any, size: Any, *_: Any) -> Tensor:
    return Tensor(tuple(int(each) for each in size), str(storage))


def _first(tensor: Any, *_: Any) -> Any:
    return tensor


def _record(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    return next((each for each in archive.infolist() if each.filename.rpartition("/")[2] == "data.pkl"), None)


def _not_a_zip(path: Path) -> LineageError:
    with open(path, "rb") as file:
        head = file.read(2)
    if head == b"PK":
        return _refused(path, "is cut short: a torch file is a zip, and this one has no directory at its end")
    if head[:1] == b"\x80":
        return LineageError(
            f"{path}: is in the format torch wrote before 1.6, which is not read here",
            "in that format the numbers of the tensors lie among the values, and reading it means running it",
            f"save it again with torch >= 1.6: torch.save(torch.load('{path}'), '{path}.new')",
        )
    return _refused(path, "is not a torch file")


def _refused(path: Path, what: str) -> LineageError:
    return LineageError(
        f"{path}: {what}",
        "what a checkpoint says of its learning rate and position is read from there, and never guessed",
        "restore it from where it was made, or name another checkpoint",
    )
