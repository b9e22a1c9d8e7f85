"""The model of any checkpoint that can be read: ours, a Hugging Face folder, or Megatron-DeepSpeed's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from keepwarm.convert.apart import apart
from keepwarm.convert.folders import as_universal, check_trusted
from keepwarm.convert.hugging_face import published, trained_here
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine.build import empty_like
from keepwarm.lineage.foreign import look_at
from keepwarm.lineage.manifest import read_manifest


def open_model(folder: Path, trust: bool) -> nn.Module:
    """A causal LM of transformers with the weights of `folder`, fp32, on the CPU.

    A folder of several steps is followed to the one its `latest` names; the record of a checkpoint, to where its weights
    lie. Pickled files are read only if `trust`. The padding of a vocabulary is taken off: its rows take no part in a
    softmax, as they do in the trainer. Raises LineageError for what is no whole checkpoint, or is not trusted.
    """
    found = look_at(folder)
    if found.kind == "keepwarm":
        location = read_manifest(folder).location
        if location is not None:
            return open_model(Path(location), trust)
        manifest = trained_here(folder)
        model = empty_like(folder, manifest, 0)
        checkpoints.load(folder, manifest, model, None)
        return model
    if found.kind == "hugging-face":
        return published(found.folder)
    check_trusted(found, trust)
    with tempfile.TemporaryDirectory(prefix="keepwarm-") as scratch:
        out = Path(scratch) / "hugging-face"
        out.mkdir()
        with as_universal(found, Path(scratch) / "universal") as (copy, _):
            apart("from_universal", "hugging_face", source=str(copy), out=str(out), shown=str(folder), dtype="fp32")
        return published(out)
