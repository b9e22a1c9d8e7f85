"""`keepwarm mix`: a drop-in for the seed's mix_datasets.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def mix(
    *,
    inputs: Annotated[list[str] | None, Parameter(name=["--inputs", "--input"], consume_multiple=True)] = None,
    legacy: bool = False,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    tokens: str | None = None,
) -> int:
    """Mix file lists: `keepwarm mix --inputs 0.9 new.txt 0.1 old.txt -o mix.txt`.

    Each list's `weight prefix corpus` lines are normalised within the list, then weighed by the list's own weight.
    The mixed list goes to standard output or to a file, a summary by corpus to standard error.

    Parameters
    ----------
    inputs
        WEIGHT FILE [WEIGHT FILE ...]
    legacy
        Print byte for byte what mix_datasets.py prints, where that is right; refuse where it is silently wrong.
    output
        Write the list to this file, atomically.
    tokens
        A budget such as 22B: the summary then says how much of it each corpus gets, and how often that reads it.
    """
    from keepwarm import files
    from keepwarm.cli.arguments import count
    from keepwarm.corpora.mixing import lines
    from keepwarm.corpora.mixing import mix as mix_lists
    from keepwarm.report.blended import mix_summary

    budget = None if tokens is None else count(tokens, "--tokens")
    mixed = mix_lists(inputs or [], legacy=legacy)
    text = lines(mixed)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        files.write_text(output, text)
    if not legacy or budget:
        print("\n".join(mix_summary(mixed, budget)), file=sys.stderr)
    return 0
