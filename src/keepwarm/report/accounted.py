"""The account as a table: what a run cost, by what it was spent on."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from keepwarm.units import format_share


def account_table(found: dict[str, Any]) -> Table:
    """One row a kind of attempt, and the sum; columns that are empty throughout are left out."""
    shared = found["total"]["shared_tokens"] > 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="account, tokens", title_justify="left")
    for name in ("spent on", "attempts", "trained", *(("not trained again",) if shared else ()), "measured"):
        table.add_column(name, justify="left" if name == "spent on" else "right")
    table.add_column("share of compute", justify="right")
    whole = found["compute_tokens"] or 1
    for row in [*found["rows"], {"what": "in all", **found["total"]}]:
        counts = [row["attempts"], row["tokens"], *([row["shared_tokens"]] if shared else []), row["evaluation_tokens"]]
        share = format_share(round(row["compute_tokens"] / whole, 3))
        table.add_row(row["what"], *(f"{count:,}" for count in counts), share)
    return table


def account_note(found: dict[str, Any]) -> str:
    """What the table's columns mean, in a line."""
    words = (
        f"a measured token costs a third of a trained one: measuring took {found['evaluation_share']:.1%} of compute"
    )
    generated = found["generated_tokens"]
    return f"{words}; the base wrote {generated:,} tokens, at a third each" if generated else words
