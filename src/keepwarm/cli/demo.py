"""`keepwarm demo [DIR]`: four stages on real text on this CPU."""

from __future__ import annotations

from pathlib import Path


def demo(folder: Path = Path("keepwarm-demo"), /, *, steps: float = 1.0) -> int:
    """Train a small model through four stages on real text, beside an arm without replay.

    The text comes with installed packages; nothing is downloaded. Ctrl-C and the same command goes on.

    Parameters
    ----------
    folder
        Where its plan, text and run folder go.
    steps
        Share of the full number of steps, for a quick look that proves nothing: --steps 0.1.
    """
    from keepwarm.demo.main import run_demo

    run_demo(folder, steps)
    return 0
