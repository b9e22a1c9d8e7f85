"""Which function resolves which rung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keepwarm.attempt import decay, rewarm
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.resolve import Request, at_peak
from keepwarm.lineage.guard import CONVERGED
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import ARMS

RESOLVERS: dict[str, Callable[[Request], tuple[Attempt, Manifest]]] = {
    "naive": at_peak,
    "d0-only": at_peak,
    "replay": at_peak,
    "replay-previous-mix": at_peak,
    "buffer-mix": at_peak,
    "balance": at_peak,
    "thermostat": at_peak,
    "replay-rewarm": rewarm.replay_rewarm,
    "rewarm-converged": rewarm.rewarm_converged,
    "legacy-replay-rewarm": rewarm.legacy,
    "decay-then-introduce": decay.decay_then_introduce,
    "special-continuation": decay.special_continuation,
    "incremental": decay.incremental,
}


def resolve(request: Request) -> tuple[Attempt, Manifest]:
    """The attempt of a candidate and the checkpoint it starts from; GuardError when a guard refuses."""
    resolver = rewarm.control if _warms_control(request) else RESOLVERS[request.candidate.rung]
    return resolver(replace(request, plan=request.plan.of_stage(request.stage)))


def _warms_control(request: Request) -> bool:
    """True of a control arm whose line is converged or has lost its moments: no rung at peak may start there."""
    end, allow = request.line.end, request.stage.allow
    converged = end.phase in CONVERGED and "peak-start" not in allow
    lost = not end.optimizer_state and "optimizer-state" not in allow
    return request.line.arm in ARMS and (converged or lost)
