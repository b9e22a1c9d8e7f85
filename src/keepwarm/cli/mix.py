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
) -> int:
    """Mix file lists: `keepwarm mix --inputs 0.9 new.txt 0.1 old.txt -o mix.txt`.

    Each list's `weight prefix corpus` lines are normalised within the list, then weighed by the list's own weight.
    The mixed list goes to standard output or to a file, each corpus's share to standard error.

    Parameters
    ----------
    inputs
        WEIGHT FILE [WEIGHT FILE ...]
    legacy
        Print byte for byte what mix_datasets.py prints, where that is right; refuse where it is silently wrong.
    output
        Write the list to this file, atomically.
    """
    from keepwarm import files
    from keepwarm.corpora.mixing import lines, shares
    from keepwarm.corpora.mixing import mix as mix_lists
    from keepwarm.units import format_share

    mixed = mix_lists(inputs or [], legacy=legacy)
    text = lines(mixed)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        files.write_text(output, text)
    if not legacy:
        for corpus, share in shares(mixed).items():
            print(f"{corpus}: {format_share(share)}", file=sys.stderr)
    return 0
