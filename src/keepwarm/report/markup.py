"""Pieces of the report's HTML. Everything that came from a run or a corpus is escaped before it gets here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def escaped(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numeric: Sequence[int] = ()) -> str:
    """A table in its own scrolling box. A row is (class, cells); cells are HTML already."""

    def cell(tag: str, number: int, content: str) -> str:
        return f"<{tag}{' class=n' if number in numeric else ''}>{content}</{tag}>"

    head = "".join(cell("th", number, escaped(text)) for number, text in enumerate(heads))
    body = "".join(
        f'<tr class="{kind}">' + "".join(cell("td", number, text) for number, text in enumerate(cells)) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
