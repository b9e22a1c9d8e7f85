"""`keepwarm convert` for people: what was written, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keepwarm.lineage.converted import Converted
from keepwarm.units import format_bytes

_ROUNDED = {"fp32": "", "bf16": " (rounded from fp32)"}


def converted_lines(out: Path, record: Converted) -> Iterator[str]:
    """A line on what was written, and the two lines of Python that load it."""
    size = format_bytes(sum(each["bytes"] for each in record.files.values()))
    yield f"{out}: {record.checkpoint} as a Hugging Face folder, {record.dtype}{_ROUNDED[record.dtype]}, {size}"
    yield "  from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield f"  model, tokenizer = (each.from_pretrained({str(out)!r}) for each in (AutoModelForCausalLM, AutoTokenizer))"
