"""A command as a job: in how many processes, and until when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keepwarm.backends.ranks import adopt_launcher
from keepwarm.backends.stopping import within
from keepwarm.errors import KeepwarmError


def as_job(story: Callable[[], int], words: Sequence[str], nproc: int | None, seconds: float | None) -> int:
    """Do `story`, which is what the command line `words` asks for, in one process, in `nproc` of this machine, or in those
    that a launcher has started; its exit code."""
    launched = adopt_launcher()
    if nproc is not None and nproc < 1:
        raise KeepwarmError(f"--nproc {nproc}", "nothing can be computed in no process", "--nproc 1")
    if launched > 1:
        from keepwarm.backends.together import lead_or_follow

        if nproc not in (None, launched):
            raise KeepwarmError(
                f"--nproc {nproc}: a launcher has started {launched} processes already",
                "each would start others",
                "leave --nproc out under torchrun, srun or mpiexec",
            )
        return lead_or_follow(lambda: _until(story, seconds))
    if nproc is not None and nproc > 1:
        from keepwarm.engine.launch import launch

        return launch(nproc, words)
    return _until(story, seconds)


def _until(story: Callable[[], int], seconds: float | None) -> int:
    with within(seconds):
        return story()
