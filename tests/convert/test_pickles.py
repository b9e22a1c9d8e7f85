"""Pickled files: what may be named is read, what else they name is refused by name, and nothing runs."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from keepwarm.cli.main import main
from keepwarm.convert import pickles
from keepwarm.errors import LineageError

UNIVERSAL = "global_step10_universal"
EMBEDDING = f"{UNIVERSAL}/zero/language_model.embedding.word_embeddings.weight/fp32.pt"


def data_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


class Runs:
    """A pickle of it runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def test_tensors_and_plain_values_are_read(tmp_path):
    held = {
        "tensor": torch.arange(6, dtype=torch.bfloat16).view(2, 3), "parameter": torch.nn.Parameter(torch.ones(2)),
        "args": argparse.Namespace(lr=1e-3, dtype=torch.float16), "order": OrderedDict(a=1), "set": {1, 2},
        "array": np.arange(4, dtype=np.uint32), "number": np.float64(0.5), "path": Path("/x"), "size": torch.Size((2, 3)),
    }  # fmt: skip
    torch.save(held, tmp_path / "held.pt")
    pickles.check(tmp_path / "held.pt")
    found = pickles.load(tmp_path / "held.pt")
    assert torch.equal(found["tensor"], held["tensor"]) and torch.equal(found["parameter"], held["parameter"])
    assert np.array_equal(found["array"], held["array"])
    rest = ("args", "order", "set", "number", "path", "size")
    assert [found[key] for key in rest] == [held[key] for key in rest]


def test_the_recorded_files_are_read_and_written_again_byte_for_byte_without_deepspeed_or_megatron(
    saved, tmp_path, monkeypatch
):
    """Their classes are stand-ins, so that neither is imported, and keep their names."""
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)  # another test may have imported it
    before = set(sys.modules)
    state = pickles.load(saved / UNIVERSAL / "zero/optimizer_state.pt")
    assert type(state["zero_stage"]).__qualname__ == "ZeroStageEnum" and state["zero_stage"].arguments == (1,)
    assert state["loss_scaler"].state == {"cur_scale": 1.0, "dynamic": False}
    pickles.save(state, tmp_path / "again.pt")
    assert data_of(tmp_path / "again.pt") == data_of(saved / UNIVERSAL / "zero/optimizer_state.pt")
    kind = pickles.load(saved / "global_step10/mp_rank_00_model_states.pt")["args"].model_type
    assert (type(kind).__module__, type(kind).__qualname__) == ("megatron.core.enums", "ModelType")
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("deepspeed", "megatron")}
    for path in saved.rglob("*.pt"):
        pickles.check(path)


REFUSED = {
    "a program": (lambda mark: Runs(f"touch {mark}"), "posix.system"),
    "any function": (lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
    "an attribute": (lambda mark: Calls(getattr, "", "join"), "builtins.getattr"),
    "another codec": (lambda mark: Calls(__import__("_codecs").encode, "x", "zip"), "_codecs.encode in zip"),
    "a trainer's function": (lambda mark: pickles.stand_in("megatron.core.enums", "a.b")(1), "megatron.core.enums.a.b"),
    "deepspeed's function": (lambda mark: pickles.stand_in("deepspeed.launcher.runner", "main")(1), "deepspeed.launcher.runner.main"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "name"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_on_the_list_is_refused_and_nothing_runs(made, name, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "evil.pt"
    value = made(mark)
    if isinstance(value, pickles.StandIn):
        _write_by_name(path, *name.rsplit(".", 2 if name.endswith("a.b") else 1))
    else:
        torch.save({"param": value}, path)
    for read in (pickles.load, pickles.check):
        if "codec" in name and read is pickles.check:
            continue  # the check makes nothing, so it calls nothing: the reading refuses it
        with pytest.raises(LineageError) as refusal:
            read(path)
        assert refusal.value.what == f"{path}: names {name}, which no checkpoint needs"
        assert "nothing was run" in refusal.value.why
    assert not mark.exists()


def _write_by_name(path: Path, module: str, *name: str) -> None:
    """A torch file whose pickle names `module` `name` as protocol 4 can: with dots in it."""
    words = [module, ".".join(name)]
    text = b"".join(pickle.SHORT_BINUNICODE + bytes([len(each)]) + each.encode() for each in words)
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        others = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in others.items():
            whole = b"\x80\x04" + text + pickle.STACK_GLOBAL + b")R."
            archive.writestr(each, whole if each.endswith("data.pkl") else content)


def test_torchscript_is_code_and_refused(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.script(Model()).save(str(tmp_path / "script.pt"))
    for read in (pickles.load, pickles.check):
        with pytest.raises(LineageError, match="names TorchScript code"):
            read(tmp_path / "script.pt")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(60), pickle.dumps({"param": 1})])
def test_what_is_no_torch_file_is_refused(content, tmp_path):
    (tmp_path / "cut.pt").write_bytes(content)
    with pytest.raises(LineageError, match=r"cut\.pt: can't be read"):
        pickles.load(tmp_path / "cut.pt")


@pytest.mark.parametrize("to", ["hf", "dcp"])
def test_pickled_files_are_read_only_if_they_are_trusted(saved, tmp_path, to, capsys):
    assert main(["convert", str(saved / UNIVERSAL), str(tmp_path / "out"), "--to", to]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert what == (
        f"error: {saved / UNIVERSAL}/mp_rank_00_model_states.pt: is a pickled file, as all of {saved / UNIVERSAL} are"
    )
    assert "can name programs to run" in why and fix == "  fix: the same command with --trust at its end"
    assert not list(tmp_path.iterdir())


def test_a_trusted_checkpoint_that_names_a_program_is_refused_by_the_command(saved, tmp_path, capsys):
    shutil.copytree(saved / UNIVERSAL, tmp_path / UNIVERSAL)
    torch.save(
        {"cat_dim": 0, "param": torch.zeros(128, 32), "more": Runs(f"touch {tmp_path}/mark")}, tmp_path / EMBEDDING
    )
    for to in ("hf", "dcp"):
        assert main(["convert", str(tmp_path / UNIVERSAL), str(tmp_path / "out"), "--to", to, "--trust"]) == 2
        assert "fp32.pt: names posix.system, which no checkpoint needs" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [UNIVERSAL]
