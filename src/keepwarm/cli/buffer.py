"""`keepwarm buffer`: what the replay buffer B holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

buffer = App(name="buffer", help="Look into the replay buffer B.")


@buffer.command
def show(
    plan: Path, /, *, version: int | None = None, samples: int = 2,
    list_to: Annotated[Path | None, Parameter(name="--list")] = None, json: bool = False, set: list[str] | None = None,
) -> int:  # fmt: skip
    """Show a version of a plan's buffer: shares, origins and some of its text.

    Parameters
    ----------
    plan
        The plan file.
    version
        Which version; the newest when left out.
    samples
        How many texts of each stage to show.
    list_to
        Also write B as a file list, `weight prefix corpus`, for mix_datasets.py or Megatron-DeepSpeed.
    json
        Print everything as JSON.
    set
        Change a key of the plan, as for `run`.
    """
    from keepwarm import files
    from keepwarm.errors import KeepwarmError
    from keepwarm.plan.load import load_plan
    from keepwarm.report.buffered import buffer_version, facts, file_list, lines, text_samples
    from keepwarm.report.terminal import print_json

    if samples < 0:
        raise KeepwarmError(f"--samples {samples}", "it is how many texts of each stage are shown", "--samples 2")
    asked = load_plan(plan, set or ())
    found = buffer_version(asked, version)
    if list_to is not None:
        files.write_text(list_to, file_list(found))
    texts = text_samples(asked, found, samples) if samples else {}
    if json:
        print_json(facts(found) | {"samples": texts})
    else:
        print("\n".join(lines(found, texts)))
    return 0
