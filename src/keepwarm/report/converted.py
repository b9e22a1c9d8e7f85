"""`keepwarm convert` for people: what was written, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keepwarm.lineage.converted import Converted
from keepwarm.lineage.manifest import Manifest
from keepwarm.units import format_bytes

_ROUNDED = {"fp32": "", "bf16": " (rounded from fp32)"}
_MOMENTS = {
    "kept": "with the optimizer's moments", "none": "without an optimizer's moments", "zero": "the optimizer's moments 0",
    "reset": "the optimizer's moments, steps and learning rates 0",
}  # fmt: skip


def converted_lines(out: Path, record: Converted | Manifest) -> Iterator[str]:
    """What was written, what to know of it, and how it is loaded."""
    size = format_bytes(sum(each["bytes"] for each in record.files.values()))
    if isinstance(record, Manifest):
        moments = _MOMENTS["kept" if record.optimizer_state else "none"]
        yield f"{out}: a keepwarm checkpoint of step {record.step:,}, fp32, {moments}, {size}"
        yield f"  base: {{checkpoint: {out}, corpus: NAME}}   # LR {record.lr:g}, phase {record.phase}"
    elif record.written == "universal":
        yield f"{out}: {record.checkpoint} as a universal checkpoint, fp32, {_MOMENTS[record.moments]}, {size}"
        yield from (f"  {note}" for note in record.notes)
        yield f"  LOAD={out.parent.resolve()}   # with --universal-checkpoint; {out.parent / 'latest_universal'} names it"
    else:
        yield f"{out}: {record.checkpoint} as a Hugging Face folder, {record.dtype}{_ROUNDED[record.dtype]}, {size}"
        yield from (f"  {note}" for note in record.notes)
        loaded = "model" if not record.tokenizer_sha256 else "model, tokenizer"
        yield from _python(out, loaded)


def _python(out: Path, loaded: str) -> Iterator[str]:
    """The lines of Python that load a Hugging Face folder."""
    if loaded == "model":
        yield "  from transformers import AutoModelForCausalLM"
        yield f"  model = AutoModelForCausalLM.from_pretrained({str(out)!r})"
        return
    yield "  from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield f"  model, tokenizer = (each.from_pretrained({str(out)!r}) for each in (AutoModelForCausalLM, AutoTokenizer))"
