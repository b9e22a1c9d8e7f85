"""`keepwarm data`: what is done with whole token files."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from keepwarm.cli import data_blend, data_files, data_materialize, data_overlap

data = App(name="data", help="Token files (.bin/.idx): show, verify, merge, split, overlap, blend, materialize.")


@data.command
def show(
    prefix: Path,
    /,
    *,
    document: int | None = None,
    tokenizer: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what a token file holds, or one of its documents.

    Parameters
    ----------
    prefix
        PREFIX of PREFIX.bin and PREFIX.idx.
    document
        Show the tokens of this document, counted from 0.
    tokenizer
        A tokenizer.json to show the document's text with.
    as_json
        Print JSON.
    """
    from keepwarm.report.tokens import describe

    facts = describe(prefix, document, tokenizer)
    if as_json:
        print(json_text.dumps(facts, ensure_ascii=False))
        return 0
    for key, value in facts.items():
        if value is not None:
            print(f"{key:17} {value:,}" if isinstance(value, int) else f"{key:17} {value}")
    return 0


data.command(data_files.verify)
data.command(data_files.merge)
data.command(data_files.split)
data.command(data_overlap.overlap)
data.command(data_blend.blend)
data.command(data_materialize.materialize)
