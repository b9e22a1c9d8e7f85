"""`keepwarm convert SRC OUT --to hf|universal|dcp`: a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def convert(
    source: Path, out: Path, /, *, to: Literal["hf", "universal", "dcp"], dtype: Literal["fp32", "bf16"] | None = None,
    moments: Literal["keep", "reset"] | None = None, trust: bool = False, json: bool = False,
) -> int:  # fmt: skip
    """Write a checkpoint in a format that others load. The checkpoint stays as it is.

    Parameters
    ----------
    source
        A keepwarm checkpoint inside its run (RUN/arms/ARM/STAGE/ATTEMPT/checkpoints/NAME), a Hugging Face folder, or a
        step of Megatron-DeepSpeed: global_stepN, global_stepN_universal, or the folder that holds them.
    out
        The folder to write; it must not exist.
    to
        hf: a Hugging Face folder, for transformers and all that reads its safetensors. universal: a universal checkpoint,
        which Megatron-DeepSpeed loads with --universal-checkpoint; latest_universal beside it names it. dcp: a
        checkpoint of keepwarm.
    dtype
        For hf: fp32 (the default) keeps every bit of the weights; bf16 rounds them to half the bytes.
    moments
        For universal and dcp. keep (the default, where there are some): the optimizer's moments. reset: universal gets
        zeros, and learning rate and step 0, so that a warm-up begins at 0; dcp gets none.
    trust
        Read pickled files, which those of Megatron-DeepSpeed are: in a process of its own, by a list of what they may name.
    json
        Print what keepwarm.json (dcp: manifest.json) in the folder says: where the weights came from, every file's hash.
    """
    from dataclasses import asdict

    from keepwarm.convert.folders import convert_folder
    from keepwarm.report.converted import converted_lines
    from keepwarm.report.terminal import print_json

    record = convert_folder(source, out, to, dtype=dtype, moments=moments, trust=trust)
    if json:
        print_json(asdict(record))
    else:
        print("\n".join(converted_lines(out, record)))
    return 0
