"""The lineage's tree as an SVG file of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

from keepwarm import files
from keepwarm.errors import KeepwarmError
from keepwarm.report import drawing, tree
from keepwarm.report.lineage import Lineage

CAPTION_CHARACTERS = 110  # a line
MADE_BY = "<!-- keepwarm lineage -->"


def write_lineage(found: Lineage, output: Path) -> None:
    """Write the tree into `output`, which may only replace another one of these.

    Raises KeepwarmError without vl-convert, while there is no checkpoint, or if `output` is something else.
    """
    engine = drawing.engine()
    if output.exists() and not (output.is_file() and MADE_BY in output.read_bytes()[:4096].decode(errors="replace")):
        raise KeepwarmError(
            f"--svg {output}: is there, and is no drawing of a lineage",
            "nothing is overwritten silently",
            f"choose another name, or remove it first: rm {output}",
        )
    spec = tree.lineage(found)
    if spec is None:
        raise KeepwarmError(
            f"{found.scope.folder}: there is no checkpoint yet", "there is nothing to draw", "keepwarm run PLAN"
        )
    sides = {
        "anchor": "start",
        "color": "var(--ink)",
        "subtitleColor": "var(--muted)",
        "subtitleFontSize": 12,
        "offset": 14,
    }
    title = {
        "text": f"{found.scope.name}: lineage",
        "subtitle": textwrap.wrap(tree.CAPTION, CAPTION_CHARACTERS),
        **sides,
    }
    picture = engine.vegalite_to_svg(spec | {"title": title, "background": "var(--paper)", "padding": 12})
    picture = drawing.in_light_colours(picture)
    place = picture.index(">") + 1
    files.write_text(output, f"{picture[:place]}{MADE_BY}{picture[place:]}\n", replace=True)
