"""From what a plan asks and where the line stands to an attempt in exact numbers, past the guards.

Pure: it reads manifests and ledgers that others have opened, and writes nothing. A guard that refuses raises
GuardError; the caller records the candidate as refused and goes on to the next. Here: the rungs that stay at LR_max,
and cooldown branches; base.py holds the base, rewarm.py and decay.py the rungs that move the learning rate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keepwarm.attempt.build import make_attempt
from keepwarm.attempt.line import COOKBOOK, COOLDOWN, Feed, Line, Mixes, Role, cursors_at, identity, recorded_mix
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.ramp import ramped
from keepwarm.attempt.steering import Pole, Steering
from keepwarm.blend.buffer import buffer_sources, outside_kept
from keepwarm.errors import GuardError
from keepwarm.lineage import guard
from keepwarm.lineage.manifest import Manifest
from keepwarm.plan.model import Plan, StageSpec
from keepwarm.plan.rungs import Candidate
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.batch import scaled_lr
from keepwarm.units import format_share, lr_of


@dataclass(frozen=True, slots=True)
class Request:
    """One candidate of a stage's ladder, with all that it may start from and draw on."""

    plan: Plan
    stage: StageSpec
    feed: Feed
    line: Line
    number: int
    candidate: Candidate
    trunk: Sequence[Manifest] = ()  # every checkpoint of the accepted line, oldest first
    converged: Manifest | None = None  # the line's end, cooled; the line's end itself where it is cooled
    best_replay: Fraction | None = None  # of the replay candidates tried before, the one that forgot least
    deleted: Collection[str] = ()  # ids of the trunk's checkpoints that nothing can start from any more

    @property
    def whole(self) -> list[Manifest]:
        """The checkpoints of the trunk that something can start from."""
        return [manifest for manifest in self.trunk if manifest.id not in self.deleted]

    @property
    def lr_max(self) -> float:
        """The line's LR_max, scaled by the plan's rule where the stage's batch is another than the line's last one."""
        return self.line.end.lr_max * self.scale_from(self.line.end)

    def scale_from(self, start: Manifest) -> float:
        """What LR is multiplied by between the batch of a checkpoint and the stage's."""
        batch = start.global_batch_size or self.plan.global_batch_size  # of foreign checkpoints it is not known
        return scaled_lr(1.0, batch, self.plan.global_batch_size, self.plan.optimizer.lr_scaling or "none")


def at_peak(request: Request) -> tuple[Attempt, Manifest]:
    """Naive, replay, replay-previous-mix, buffer-mix, balance, thermostat: from the line's end, LR stays at its LR_max."""
    plan, stage, line, candidate = request.plan, request.stage, request.line, request.candidate
    overridden = guard.enforce(
        [
            guard.peak_start(line.end, candidate.label, request.whole, line.end.lr_max),
            guard.optimizer_state(line.end, candidate.label),
            guard.same_identity(line.end, identity(plan, request.feed)),
        ],
        stage.allow,
    )
    roles = roles_of(request)
    overridden += guard.enforce([check_buffer(request, roles)], stage.allow)
    schedule = schedules.constant(request.lr_max, plan.whole_steps(stage.tokens))
    attempt = make_attempt(
        plan, request.feed, _mixes(request, roles), schedule, arm=line.arm, stage=stage.name, number=request.number,
        rung=candidate.rung, label=candidate.label, new=new_of(line, stage), old=tuple(name for name, _ in line.taught),
        start=line.end.id, moments="keep" if line.end.optimizer_state else "reset",
        cursors=cursors_at(line.end, plan.sequence_length), allow=stage.allow, overridden=overridden,
        warnings=mix_warnings(request), steering=_thermostat(candidate, roles),
    )  # fmt: skip
    return attempt, line.end


def _thermostat(candidate: Candidate, roles: Sequence[Role]) -> Steering | None:
    """How the mix of a thermostat is steered: its first role within the bounds; None of the other rungs."""
    if candidate.rung != "thermostat":
        return None
    old, new = (Pole.of(role.name, role.members) for role in roles)
    start, least, most = (candidate.parameters[key] for key in ("start", "least", "most"))
    return Steering("thermostat", old, new, start, least, most)


def _mixes(request: Request, roles: Sequence[Role]) -> Mixes:
    """The stage's mix from its first step on, or reached by its ramp; the control arms have none."""
    plan, stage, line = request.plan, request.stage, request.line
    if stage.ramp is None or line.arm != COOKBOOK:
        return [(0, roles)]
    tokens = plan.whole_steps(stage.ramp.tokens_of(stage.tokens))
    before = recorded_mix(line.end, line.begin, request.feed.corpora[plan.base.corpus].weights)
    return ramped(before, roles, tokens // plan.step_tokens)


def cooldown_attempt(
    plan: Plan, trunk: Attempt, start: Manifest, tokens: int, feed: Feed, arm: str, number: int
) -> Attempt:
    """A cooldown branch off a checkpoint of `trunk` at peak: its mix there goes on while LR falls to its minimum."""
    allow = (*plan.allow_of(trunk.stage), *trunk.allow)
    overridden = guard.enforce(
        [
            guard.peak_start(start, COOLDOWN, (), start.lr_max),
            guard.optimizer_state(start, COOLDOWN),
            guard.same_identity(start, identity(plan, feed)),
        ],
        allow,
    )
    plan = plan.with_batch(trunk.global_batch_size)
    shape, lr_min = plan.schedule.cooldown_shape, lr_of(plan.schedule.lr_min, start.lr_max)
    schedule = schedules.cooldown(start.lr_max, plan.whole_steps(tokens), shape, lr_min)
    mixture = next(s.mixture for s in reversed(trunk.segments) if s.first_sample <= start.samples)
    members = {source: mixture.share(source) for source in mixture.source_ids}
    roles: dict[str, dict[str, Fraction]] = {}
    for source in trunk.sources:
        if source.id in members:
            roles.setdefault(source.role, {})[source.id] = members[source.id]
    mix = [Role(name, sum(each.values(), Fraction(0)), each) for name, each in roles.items()]
    return make_attempt(
        plan, feed, [(0, mix)], schedule, arm=arm, stage=trunk.stage, number=number, rung=COOLDOWN,
        label="cooldown branch", new=None, old=(), start=start.id,
        moments="keep" if start.optimizer_state else "reset", cursors=cursors_at(start, plan.sequence_length),
        allow=allow, overridden=overridden,
    )  # fmt: skip


def new_of(line: Line, stage: StageSpec) -> str | None:
    """The corpus a stage teaches on this line; the d0-only arm is taught nothing new."""
    return None if line.arm == "d0-only" else stage.new


def roles_of(request: Request) -> list[Role]:
    """The mix of a candidate by role (COOKBOOK, "Rungs"). A role with share 0 is left out."""
    plan, line, feed, candidate = request.plan, request.line, request.feed, request.candidate
    d0, new = feed.corpora[plan.base.corpus].weights, feed.corpora[request.stage.new].weights
    if candidate.rung == "naive":
        return [Role("new", Fraction(1), new)]
    if candidate.rung == "d0-only":
        return [Role("d0", Fraction(1), d0)]
    share = candidate.parameters["start"] if candidate.rung == "thermostat" else candidate.share
    if share is not None:
        name, members = ("d0", d0)
        if candidate.rung in ("replay-previous-mix", "thermostat"):
            name, members = "previous", recorded_mix(line.end, line.begin, d0)
        return [Role(name, share, members), Role("new", 1 - share, new)]
    assert candidate.mix is not None, candidate.rung
    alpha_0, alpha_new, alpha_buffer = candidate.mix
    roles = [Role("d0", alpha_0, d0), Role("new", alpha_new, new)]
    if alpha_buffer:
        if line.buffer is None:
            raise GuardError(
                "buffer-clean",
                f"{candidate.label} asks {format_share(alpha_buffer)} of the buffer B, which is empty",
                "B holds samples of D_1 and later, put there after their stages were accepted; none was yet",
                "use a rung without B here: replay, replay-previous-mix",
            )
        weights = {s.id: Fraction(s.tokens) for s in buffer_sources(line.buffer)}
        roles.append(Role("buffer", alpha_buffer, weights))
    return [role for role in roles if role.share]


def check_buffer(request: Request, roles: Sequence[Role]) -> GuardError | None:
    """Guard 4 on the version of B that a mix draws on."""
    buffer = request.line.buffer
    if buffer is None or not any(role.name == "buffer" for role in roles):
        return None
    held_out = outside_kept(buffer, {name: source for name, (source, _) in request.feed.sources.items()})
    held = {entry.corpus for entry in buffer.entries}
    return guard.buffer_clean(held, request.stage.new, held_out, buffer.folder.name)


def mix_warnings(request: Request) -> tuple[str, ...]:
    """What a mix without D_0 does not protect."""
    mix, buffer = request.candidate.mix, request.line.buffer
    if mix is None or mix[0] != 0:
        return ()
    holds = ", ".join(entry.corpus for entry in buffer.entries) if buffer else "nothing"
    return (f"no D_0 in this mix, and B holds {holds} only: D_0 is forgotten as without replay",)
