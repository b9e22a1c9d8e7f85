"""Tensors out of pickled files, by an allow-list: nothing that such a file names is looked up unless it is on it.

A pickle may call whatever it names. What a checkpoint of Megatron-DeepSpeed needs is little: torch's rebuilding of
tensors, plain containers, NumPy's arrays, the trainer's argparse.Namespace, and a few classes of DeepSpeed. Those of
the trainer's own packages, and DeepSpeed's outside DeepSpeed's own process, become stand-ins: they keep what they were
made with, do nothing, and are written again under the name they came with. All else is refused by its name.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import io
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from keepwarm.errors import LineageError
from keepwarm.lineage.pickled import Inert

_DTYPES = {("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_REAL = _DTYPES | {
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("argparse", "Namespace"), ("torch", "Size"),
    ("torch", "device"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("datetime", "timedelta"), ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"), ("numpy", "dtype"),
    ("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
    *(("builtins", name) for name in ("set", "frozenset", "dict", "list", "tuple", "complex", "bytearray", "slice")),
}  # fmt: skip
_DEEPSPEED = {
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"), ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"), ("deepspeed.utils.tensor_fragment", "fragment_address"),
    ("deepspeed.checkpoint.universal_checkpoint", "SubparamShape"),
}  # fmt: skip
_TRAINERS = ("megatron", "ezpz", "blendcorpus")  # packages whose classes stand in the launch's arguments
_RENAMED = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}
_STORAGES = {name for name in vars(torch) if name.endswith("Storage")}
_torch_load = torch.load  # DeepSpeed's process puts `load` in its place


class NotAllowed(Exception):
    """A file names what is not on the list."""


class StandIn:
    """An object of a class that is not imported: what it was made with and its attributes, written again as they were."""

    def __new__(cls, *arguments: Any) -> StandIn:
        """Called with arguments, as an enum is, or without."""
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    arguments: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        made = (type(self), self.arguments) if self.arguments else (copyreg.__newobj__, (type(self),))  # type: ignore[attr-defined]
        return made if self.state is None else (*made, self.state)


@cache
def stand_in(module: str, name: str) -> type:
    """The class that stands for `module.name`, the same each time."""
    return type(name, (StandIn,), {"__module__": module, "__qualname__": name})


class Unpickler(pickle.Unpickler):
    """What `torch.load` reads with."""

    def find_class(self, module: str, name: str) -> Any:
        """A name on the list, or a stand-in; NotAllowed for all else."""
        module = _RENAMED.get(module, module)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) in _REAL or (("deepspeed" in sys.modules) and (module, name) in _DEEPSPEED):
            return getattr(importlib.import_module(module), name)
        _vet(module, name)
        return stand_in(module, name)


def load(path: Path | str, *_: Any, **__: Any) -> Any:
    """The content of a torch file on the CPU; further arguments are taken and let go, as DeepSpeed gives torch.load some.

    LineageError for a file that names what is not on the list, or is damaged.
    """
    path = Path(path)
    with _explained(path):
        _pickle_of(path)
        return _torch_load(
            path, map_location="cpu", pickle_module=sys.modules[__name__], weights_only=False, mmap=True
        )  # fmt: skip


def check(path: Path) -> None:
    """LineageError if a torch file names what is not on the list. Its pickle is gone through, its tensors are not read."""
    with _explained(path):
        _Vetting(io.BytesIO(_pickle_of(path))).load()


def save(value: Any, path: Path) -> None:
    """torch.save, with stand-ins under the names they came with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _importable():
        torch.save(value, path)


class _Vetting(pickle.Unpickler):
    """Asks for every name, and makes nothing."""

    def find_class(self, module: str, name: str) -> Any:
        module = _RENAMED.get(module, module)
        if (module, name) not in _REAL and not (module == "torch" and name in _STORAGES):
            _vet(module, name)
        return type("Nothing", (Inert,), {})

    def persistent_load(self, _: Any) -> Any:
        return Inert()


def _vet(module: str, name: str) -> None:
    known = (module, name) in _DEEPSPEED or (module, name) == ("_codecs", "encode")
    if not known and (module.partition(".")[0] not in _TRAINERS or "." in name):
        raise NotAllowed(f"{module}.{name}")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, as older protocols hold them."""
    if encoding != "latin1":
        raise NotAllowed(f"_codecs.encode in {encoding}")
    return text.encode("latin1")


def _pickle_of(path: Path) -> bytes:
    """The one pickle of a torch file, as torch's own reader finds it; a script, which runs, is refused."""
    reader: Any = torch._C.PyTorchFileReader(str(path))
    if reader.has_record("constants.pkl"):
        raise NotAllowed("TorchScript code")
    return bytes(reader.get_record("data.pkl"))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except NotAllowed as error:
        raise LineageError(
            f"{path}: names {error}, which no checkpoint needs",
            "reading it could run a program; it was not looked up, and nothing was run",
            "ask for the weights as a Hugging Face folder (safetensors), which holds no pickle",
        ) from None
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise LineageError(
            f"{path}: can't be read ({' '.join(str(error).split())[:160]})",
            "a tensor that is not whole must not be trained on",
            "copy the checkpoint again from where it is whole",
        ) from error


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Pickle writes a class by its name and looks there whether it is the one: so the stand-ins stand there meanwhile."""
    made: Mapping[tuple[str, str], type] = {(each.__module__, each.__name__): each for each in StandIn.__subclasses__()}
    fakes: dict[str, Any] = {}
    for (module, name), each in made.items():
        top = module.partition(".")[0]  # pickle asks for it too; the real one is not imported for that
        fakes.setdefault(top, sys.modules.get(top) or types.ModuleType(top))
        vars(fakes.setdefault(module, types.ModuleType(module)))[name] = each
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
