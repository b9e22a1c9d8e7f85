"""`keepwarm judge FILE`: the verdict on an attempt's metrics, or on logs of the reference stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def judge(
    file: Path,
    /,
    *,
    validation: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    new: str | None = None,
    tolerance: str | None = None,
    switch: int | None = None,
    json: bool = False,
) -> int:
    """Say whether the old corpora come back within tolerance and the new one is learned, from a file alone.

    Parameters
    ----------
    file
        metrics.jsonl of an attempt, also of one that is still training; or a log of Megatron-DeepSpeed.
    validation
        CORPUS=LOG: a log with the validation losses of one corpus, by iteration; one for each corpus.
    new
        Which of these corpora is the new one.
    tolerance
        Of an old corpus, for logs: 0.3 nats, or 5% of its reference (also if not given; metrics bring their own).
    switch
        The iteration at which the data switched, for logs (else before the first one logged).
    json
        Print everything as JSON.
    """
    from keepwarm.report.judged import judged, print_judged
    from keepwarm.report.terminal import print_json

    found = judged(file, validation, new, tolerance, switch)
    if json:
        print_json(found.as_dict())
    else:
        print_judged(file, found)
    return 0
