"""`keepwarm data blend`: what a file list would be fed, before any run."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def blend(
    listing: Annotated[Path, Parameter(name="LIST")],
    /,
    *,
    tokens: str,
    sequence_length: int = 4096,
    order: Literal["keepwarm", "greedy"] = "keepwarm",
    max_epochs: str | None = None,
    over: Literal["error", "reweight"] = "error",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what a list of `weight prefix corpus` lines feeds: tokens, epochs and repeats of every corpus and file.

    Nothing is built or written; only the files' headers are read.

    Parameters
    ----------
    listing
        The list, as `keepwarm mix` writes it.
    tokens
        To be fed in all, such as 22B.
    sequence_length
        Tokens of a sample.
    order
        keepwarm's, or the greedy order of Megatron and BlendCorpus over the lines of the list, bit for bit.
    max_epochs
        How often a file may be read.
    over
        What to do about a file that would be read more often: refuse, or give it less and the others of its corpus more.
    as_json
        Print everything as JSON.
    """
    from keepwarm.blend.preview import over as over_cap
    from keepwarm.blend.preview import preview, preview_greedy, refuse_over, whole_samples
    from keepwarm.cli.arguments import count, ratio
    from keepwarm.corpora.filelist import read_filelist
    from keepwarm.errors import KeepwarmError
    from keepwarm.report.blended import facts, lines, lowered

    asked, cap = count(tokens, "--tokens"), None if max_epochs is None else ratio(max_epochs, "--max-epochs")
    if sequence_length < 2:
        raise KeepwarmError(f"--sequence-length {sequence_length}", "a sample has two tokens at least", "4096")
    if over == "reweight" and (cap is None or order == "greedy"):
        why = "the reference has no caps" if order == "greedy" else "without a cap nothing is too much"
        raise KeepwarmError("--over reweight", why, "--over reweight --max-epochs 4, in keepwarm's order")
    entries, samples = read_filelist(listing), whole_samples(asked, sequence_length)
    asked_of_all = (preview if order == "keepwarm" else preview_greedy)(entries, samples, sequence_length)
    rows = preview(entries, samples, sequence_length, cap) if over == "reweight" else asked_of_all
    if cap is not None and (too_often := over_cap(rows, cap)):
        refuse_over(too_often, cap, of=len(rows), reweighted=over == "reweight")
    found = facts(rows, asked, sequence_length, order)
    if as_json:
        print(json_text.dumps(found, ensure_ascii=False))
        return 0
    print("\n".join(lines(found, capped=cap is not None)))
    if said := list(lowered(asked_of_all, rows)):
        print("\nto stay within --max-epochs:\n  " + "\n  ".join(said))
    return 0
