"""The recorded checkpoints, unpacked, and where two universal copies differ."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

RECORDED = Path(__file__).parents[1] / "golden/checkpoint"


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(RECORDED / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """The folder that the real trainer saved into: global_step10 and its universal copy. Not to be changed."""
    folder = unpacked("real_ckB.tar.gz", tmp_path_factory.mktemp("saved"))
    (folder / "latest").write_text("global_step10")
    return folder


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory) -> Path:
    """global_step3 of two ranks, the padding of one group on both, and held.json. Not to be changed."""
    return unpacked("two_ranks_padded.tar.gz", tmp_path_factory.mktemp("two-ranks"))


def _differences(one: object, other: object, where: str) -> list[str]:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        bits = [each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
        return [] if same and torch.equal(*bits) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        both = [
            each for key in one.keys() & other.keys() for each in _differences(one[key], other[key], f"{where}/{key}")
        ]
        return [*both, *(f"{where}/{key}" for key in one.keys() ^ other.keys())]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            each for i, pair in enumerate(zip(one, other, strict=True)) for each in _differences(*pair, f"{where}/{i}")
        ]
    if type(one) is type(other) and getattr(one, "__dict__", None):
        return _differences(vars(one), vars(other), where)
    return [] if type(one) is type(other) and one == other else [where]


@pytest.fixture(scope="session")
def differences():
    """Compares the pickled files of two universal copies: FILE where one is missing, FILE/KEY/... within one."""
    from keepwarm.convert import pickles

    def compare(one: Path, other: Path) -> set[str]:
        names = [{str(path.relative_to(folder)) for path in folder.rglob("*.pt")} for folder in (one, other)]
        found = names[0] ^ names[1]
        for name in names[0] & names[1]:
            if (one / name).read_bytes() != (other / name).read_bytes():
                found.update(_differences(pickles.load(one / name), pickles.load(other / name), name))
        return found

    return compare
