"""`keepwarm convert CHECKPOINT OUT --to hf`: a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def convert(
    checkpoint: Path, out: Path, /, *, to: Literal["hf"], dtype: Literal["fp32", "bf16"] = "fp32", json: bool = False
) -> int:
    """Write a checkpoint as a folder that others load, with the run's tokenizer. The checkpoint stays as it is.

    Parameters
    ----------
    checkpoint
        A checkpoint's folder inside its run: RUN/arms/ARM/STAGE/ATTEMPT/checkpoints/NAME.
    out
        The folder to write; it must not exist.
    to
        hf: a Hugging Face folder, for transformers and all that reads its safetensors.
    dtype
        fp32 keeps every bit of the weights; bf16 rounds them to half the bytes.
    json
        Print what keepwarm.json in the folder says: where the weights came from, and the hash of every file.
    """
    from dataclasses import asdict

    from keepwarm.convert.hugging_face import to_hugging_face
    from keepwarm.report.converted import converted_lines
    from keepwarm.report.terminal import print_json

    record = {"hf": to_hugging_face}[to](checkpoint, out, dtype)
    if json:
        print_json(asdict(record))
    else:
        print("\n".join(converted_lines(out, record)))
    return 0
