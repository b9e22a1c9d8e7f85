"""Vega-Lite specifications as SVG: on the report's page, and in files of their own that bring their colours along."""

from __future__ import annotations

import re
from importlib.resources import files as package_files
from typing import Any

from keepwarm.errors import KeepwarmError


def engine() -> Any:
    """vl-convert; KeepwarmError where it is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise KeepwarmError(
            "the report's drawings need vl-convert, which is not installed",
            "it brings the Vega libraries that are put into the file",
            'pip install "keepwarm[report]"',
        ) from None
    return vl_convert


def style() -> str:
    """The page's style sheet."""
    return (package_files("keepwarm.report") / "page.css").read_text(encoding="utf-8")


def renumbered(picture: str, name: str) -> str:
    """The SVG with its clip paths numbered from 1: the engine counts on from drawing to drawing."""
    found = dict.fromkeys(re.findall(r'id="(clip[0-9]+)"', picture))
    numbers = {clip: f"{name}-clip{number}" for number, clip in enumerate(found, start=1)}
    return re.sub(r"clip[0-9]+", lambda match: numbers.get(match[0], match[0]), picture)


def in_light_colours(picture: str) -> str:
    """The SVG with the page's variables replaced by their light values, so that any program can show it."""
    light = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", style().partition("}")[0]))
    return re.sub(r"var\(--([a-z0-9]+)\)", lambda match: light[match[1]], picture)
