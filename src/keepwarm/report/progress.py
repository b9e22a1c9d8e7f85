"""A progress bar on standard error where somebody watches it, and lines on standard error either way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from keepwarm.report.terminal import BATCH_LOG_WIDTH


@contextmanager
def progress_bar(doing: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Yields `say(line)` and `advance(bytes done, bytes in all)`."""
    out = Console(stderr=True, width=None if sys.stderr.isatty() else BATCH_LOG_WIDTH, highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=out, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(doing, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, advance=done, total=total)

        yield (lambda line: out.print(line, markup=False, soft_wrap=True)), advance
