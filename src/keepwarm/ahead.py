"""Candidates side by side: those that come next are trained while the ones before them are, each in its own process.

Nothing is decided here. A candidate's verdict is given in its turn, on the same records as if it had been trained then,
so a search comes to the same decisions and the same bits as one after another; what was trained in vain is in the
account. Processes are as those of the control arms: deaf to Ctrl-C, which their owner passes on as SIGTERM (each saves
at its next step and ends), and the kernel kills them with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from keepwarm import files, processes
from keepwarm.backends.ranks import world_size
from keepwarm.corpora.prepare import prepare
from keepwarm.errors import GuardError, KeepwarmError, PlanError, WorkFailed
from keepwarm.plan.load import plan_document
from keepwarm.plan.model import Plan
from keepwarm.report.terminal import Terminal, console_beside
from keepwarm.tries import Try, resolved, trained
from keepwarm.work import Run

FAILED = 1


class Ahead:
    """The candidates of a stage that are being trained beside the one whose turn it is, by their number."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is trained yet."""
        self._plan = plan
        self._running: dict[int, SpawnProcess] = {}

    def train(self, tries: Sequence[Try]) -> None:
        """Train these, and no others any more."""
        wanted = {each.number for each in tries}
        self.stop([number for number in self._running if number not in wanted])
        spawn = multiprocessing.get_context("spawn")
        with processes.ignoring_ctrl_c():
            for each in tries:
                if each.number not in self._running:
                    self._running[each.number] = spawn.Process(target=_train, args=(self._plan, each))
                    self._running[each.number].start()

    def wait(self, number: int) -> None:
        """Until a candidate is trained, where it is being trained here: the caller goes on from what is on disk."""
        process = self._running.pop(number, None)
        if process is not None:
            try:
                process.join()
            except BaseException:
                self._running[number] = process
                raise

    def stop(self, numbers: Sequence[int] | None = None) -> None:
        """Stop some, or all: each saves where it stands."""
        stopped = [self._running.pop(each) for each in (list(self._running) if numbers is None else numbers)]
        for process in stopped:
            process.terminate()
        for process in stopped:
            process.join()


def refuse_side_by_side(plan: Plan) -> None:
    """PlanError where candidates would be trained side by side in a run of several processes, each of which needs them all,
    or by jobs."""
    if plan.search.side_by_side > 1 and plan.run.backend == "megatron":
        raise PlanError(
            f"search.side_by_side: {plan.search.side_by_side}, with the backend megatron",
            "an attempt has the jobs of a whole machine; one after another, a later one is launched only if it is needed",
            "search: {side_by_side: 1}, or --set search.side_by_side=1",
        )
    if plan.search.side_by_side > 1 and world_size() > 1:
        raise PlanError(
            f"search.side_by_side: {plan.search.side_by_side}, in a run of {world_size()} processes",
            "all of them compute one candidate together",
            "search: {side_by_side: 1}, or --set search.side_by_side=1",
        )


@contextlib.contextmanager
def ahead(plan: Plan) -> Iterator[Ahead]:
    """Candidates that are trained while the block runs; however it ends, they are stopped."""
    beside = Ahead(plan)
    try:
        yield beside
    finally:
        beside.stop()


def _train(plan: Plan, asked: Try) -> None:
    """What a candidate's process does. What goes wrong is told in its turn, when its owner does the same again."""
    os.setpgrp()
    processes.die_with_owner()
    folder = Path(plan.run.folder)
    try:
        listener = Terminal(prefix=f"[{asked.candidate.label}] ", out=console_beside(folder / f"{asked.folder}.log"))
        plan_sha256 = files.sha256_json(plan_document(plan))
        context = Run(plan, plan_sha256, folder, prepare(plan, lambda text: None), listener, keeps_plan=False)
        trained(context, asked, *resolved(context, asked))
    except (GuardError, KeepwarmError, WorkFailed):
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
