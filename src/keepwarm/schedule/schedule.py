"""The learning rate as a pure function of tokens: pieces joined end to end, and the questions asked of them.

A schedule counts the tokens of its own attempt from 0. The step that starts after t tokens uses lr(t); so the first
step of a warm-up from 0 uses 0, as in Megatron-DeepSpeed. A piece covers [begin, end): at a boundary the next piece
speaks, and after the last piece its end LR holds. Steps and samples are views: `scaled` turns a schedule counted in
them into one counted in tokens, the same curve.

Phases of a checkpoint taken at t: `warming` until the warm-up's end; `peak` while LR == LR_max and nothing has
decayed, both ends included; `decaying`; `cooled` once the last decay is complete. A checkpoint on a plateau below
LR_max, behind a decay, is `cooled` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepwarm.errors import PlanError
from keepwarm.schedule.piece import CONSTANT, Phase, Piece, crosses

PEAK_TOLERANCE = 1e-6  # relative: how near LR_max counts as at peak


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pieces in order; `lr_max` is the plateau that counts as peak."""

    pieces: tuple[Piece, ...]
    lr_max: float

    def __post_init__(self) -> None:
        """Raise PlanError without pieces, or if a piece called peak is not at lr_max."""
        if not self.pieces:
            raise PlanError("a schedule without pieces", "no step would have an LR", "give it at least one token")
        for piece in self.pieces:
            if piece.phase == "peak" and not self._is_peak(piece.lr_start):
                raise PlanError(
                    f"a plateau at LR {piece.lr_start:g} is called peak, LR_max is {self.lr_max:g}",
                    "stages start from checkpoints at peak, and this one is not",
                    f"set lr_max to {piece.lr_start:g}",
                )

    @property
    def tokens(self) -> int:
        """Length of the schedule."""
        return sum(piece.tokens for piece in self.pieces)

    @overload
    def lr(self, tokens: int) -> float: ...
    @overload
    def lr(self, tokens: ArrayLike) -> NDArray[np.float64]: ...
    def lr(self, tokens: Any) -> Any:
        """LR of the step that starts after `tokens` tokens, a number or an array of any shape."""
        t = _from_start(tokens)
        flat = t.reshape(-1)
        number = np.minimum(self._numbers(flat), len(self.pieces) - 1)
        lr = np.empty(flat.shape, dtype=np.float64)
        for k, piece in enumerate(self.pieces):
            here = number == k
            lr[here] = piece.at(np.minimum(flat[here] - self._borders[k], piece.tokens))
        return lr.reshape(t.shape) if t.ndim else float(lr[0])

    def phases(self, tokens: ArrayLike) -> NDArray[np.str_]:
        """Phases of the checkpoints taken after `tokens` tokens, an array of the same shape."""
        t = _from_start(tokens)
        flat, last = t.reshape(-1), self.pieces[-1]
        risen = last.phase == "warming" and self._is_peak(last.lr_end)
        after: Phase = "cooled" if last.phase == "decaying" else "peak" if risen else last.phase
        found = np.array([*(piece.phase for piece in self.pieces), after])[self._numbers(flat)]
        for begin, piece in zip(self._borders, self.pieces, strict=False):
            if piece.phase == "decaying" and self._is_peak(piece.lr_start):
                found[flat == begin] = "peak"  # nothing has decayed yet
        return found.reshape(t.shape)

    def phase(self, tokens: int) -> Phase:
        """Phase of the checkpoint taken after `tokens` tokens."""
        return cast(Phase, str(self.phases(tokens)))

    def scaled(self, by: int) -> Schedule:
        """The same curve with every length times `by`: from steps to tokens with `by` tokens a step."""
        return replace(self, pieces=tuple(replace(piece, tokens=piece.tokens * by) for piece in self.pieces))

    def where(self, lr: float, falling: bool = True) -> int:
        """The first token count at which LR has come down to `lr` (up to it, if not `falling`), exact.

        Found by bisection over whole tokens on the curve itself. Raises PlanError if LR never crosses `lr` that way.
        """
        begin, previous = 0, math.nan
        for piece in self.pieces:
            if crosses(previous, piece.lr_start, lr, falling):
                return begin
            if piece.crosses(lr, falling):
                return begin + piece.first_beyond(lr, falling)
            begin, previous = begin + piece.tokens, piece.lr_end
        raise PlanError(
            f"LR {lr:g} is never crossed on the way {'down' if falling else 'up'}: the schedule runs through "
            + " -> ".join(f"{x:g}" for p in self.pieces for x in (p.lr_start, p.lr_end)),
            "what should happen at this LR would never happen",
            "choose an LR between the ends of one of its pieces",
        )

    def branch(self, at_tokens: int, cooldown: Piece) -> Schedule:
        """This schedule up to `at_tokens`, then `cooldown`: the LR of a branch, the trunk stays as it is.

        Raises PlanError unless `at_tokens` lies at peak, within the schedule, and `cooldown` starts at LR_max.
        """
        if at_tokens > self.tokens or self.phase(at_tokens) != "peak":
            raise PlanError(
                f"a cooldown cannot branch off after {at_tokens} tokens: the schedule is "
                + (self.phase(at_tokens) if at_tokens <= self.tokens else f"{self.tokens} tokens long"),
                "a cooldown starts from the plateau, where LR is LR_max",
                f"branch where the schedule is at peak, for example after {self._last_peak()} tokens",
            )
        if not self._is_peak(cooldown.lr_start):
            raise PlanError(
                f"the cooldown starts at LR {cooldown.lr_start:g}, the trunk is at {self.lr_max:g}",
                "LR would jump at the branch",
                f"start the cooldown at {self.lr_max:g}",
            )
        kept = [
            replace(piece, tokens=min(piece.tokens, at_tokens - begin))
            for begin, piece in zip(self._borders, self.pieces, strict=False)
            if begin < at_tokens
        ]
        return Schedule((*kept, cooldown), self.lr_max)

    def to_dict(self) -> dict[str, Any]:
        """JSON value, exact: floats keep every bit in their shortest text."""
        fields = ("shape", "tokens", "lr_start", "lr_end", "phase")
        return {"lr_max": self.lr_max, "pieces": [{name: getattr(p, name) for name in fields} for p in self.pieces]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_dict` wrote. Raises PlanError on anything else."""
        try:
            return cls(tuple(Piece(**piece) for piece in value["pieces"]), float(value["lr_max"]))
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"not a schedule: {error!r}", "the LR of this attempt cannot be known", "restore the attempt's record"
            ) from None

    @property
    def _borders(self) -> list[int]:
        """Where each piece begins, and where the last one ends."""
        return [0, *accumulate(piece.tokens for piece in self.pieces)]

    def _numbers(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the piece that each token count lies in; behind the last one: how many pieces there are."""
        return np.searchsorted(np.array(self._borders[1:], dtype=np.int64), tokens, side="right")

    def _is_peak(self, lr: float) -> bool:
        return abs(lr - self.lr_max) <= PEAK_TOLERANCE * self.lr_max

    def _last_peak(self) -> int:
        return max((end for end in self._borders if self.phase(end) == "peak"), default=0)


def _from_start(tokens: ArrayLike) -> NDArray[np.int64]:
    t = np.asarray(tokens, dtype=np.int64)
    assert np.all(t >= 0), "tokens are counted from the attempt's start"
    return t


def constant(lr: float, tokens: int) -> Schedule:
    """LR stays where it is: the trunk.

    Formula: lr(t) = lr

    When: a stage that starts at peak and stays there; cooldowns branch off it.

    Source: the cookbook, "stay at LR_max"; Hägele et al. 2405.18392.
    """
    return _join(lr, [(CONSTANT, tokens, lr, lr, "peak")])


def wsd(
    lr_max: float,
    warmup_tokens: int,
    total_tokens: int,
    cooldown_tokens: int = 0,
    shape: str = "1-sqrt",
    lr_min: float = 0.0,
) -> Schedule:
    """Warm-up, stable plateau, decay: the cookbook's schedule. `total_tokens` holds all three.

    Raises PlanError if warm-up and cooldown do not fit.

    Formula: lr(t) = lr_max t / W for t < W; lr_max; from T - C on the shape's fall from lr_max to lr_min

    When: a base that later stages go on from: without its cooldown it ends at peak.

    Source: MiniCPM 2404.06395, section 4; Hägele et al. 2405.18392, section 3.
    """
    _refuse_overflow(total_tokens, {"warmup": warmup_tokens, "cooldown": cooldown_tokens})
    plateau_tokens = total_tokens - warmup_tokens - cooldown_tokens
    return _join(
        lr_max,
        [
            ("linear", warmup_tokens, 0.0, lr_max, "warming"),
            (CONSTANT, plateau_tokens, lr_max, lr_max, "peak"),
            (shape, cooldown_tokens, lr_max, lr_min, "decaying"),
        ],
    )


def cosine(lr_max: float, warmup_tokens: int, total_tokens: int, lr_min: float) -> Schedule:
    """Warm-up, then a cosine decay to `lr_min` over the rest of `total_tokens`.

    Formula: lr(t) = lr_max t / W for t < W; lr_min + (lr_max - lr_min) (1 + cos(pi (t - W) / (T - W))) / 2

    When: a base whose length is final. It ends cooled: later stages must warm up again.

    Source: Loshchilov and Hutter 1608.03983, equation 5; the legacy agpt-7B line.
    """
    return rewarm(lr_max, warmup_tokens, total_tokens, "cosine", lr_min)


def rewarm(lr: float, warmup_tokens: int, total_tokens: int, then: str = CONSTANT, lr_min: float = 0.0) -> Schedule:
    """Warm-up from 0 to `lr`, then constant, or a decay of shape `then` to `lr_min` over the rest.

    Its plateau is the LR_max from here on.

    Formula: lr(t) = lr t / W for t < W; then lr, or the shape's fall from lr to lr_min over T - W

    When: a stage that starts from a cooled checkpoint, or from one without optimizer state.

    Source: Gupta et al. 2308.04014; Ibrahim et al. 2403.08763.
    """
    decay_tokens = 0 if then == CONSTANT else max(1, total_tokens - warmup_tokens)  # a decay of none does not fit
    return wsd(lr, warmup_tokens, total_tokens, decay_tokens, then, lr_min)


def inverse_square_root(lr_max: float, warmup_tokens: int, total_tokens: int) -> Schedule:
    """Warm-up, then a fall like 1 / sqrt(tokens) to the end of `total_tokens`.

    Raises PlanError without a warm-up: its length is what the fall is measured by.

    Formula: lr(t) = lr_max t / W for t < W; lr_max sqrt(W / t)

    When: a run without a planned length. It is nowhere at peak, so stages that start at peak can't follow it.

    Source: Vaswani et al. 1706.03762, equation 3; Zhai et al. 2106.04560, section 3.5.
    """
    if not 0 < warmup_tokens < total_tokens:
        raise PlanError(
            f"an inverse-square-root schedule of {total_tokens} tokens with a warm-up of {warmup_tokens}",
            "LR falls as the square root of warm-up over tokens, so both must be there",
            "give it a warm-up shorter than the schedule, or take cosine",
        )
    return rewarm(
        lr_max, warmup_tokens, total_tokens, "inverse-square-root", lr_max * math.sqrt(warmup_tokens / total_tokens)
    )


def infinite_cosine(
    lr_max: float, lr_const: float, warmup_tokens: int, cooldown_tokens: int, constant_tokens: int,
    anneal_tokens: int = 0, lr_min: float = 0.0,
) -> Schedule:  # fmt: skip
    """Warm-up, a cosine cooldown to a plateau at `lr_const`, an exponential annealing to `lr_min` > 0.

    The plateau is what counts as peak: `lr_max` of the result is `lr_const`.

    Formula: lr(t) = lr_max t / W for t < W; lr_const + (lr_max - lr_const) (1 + cos(pi x)) / 2 over the cooldown;
    lr_const; lr_const (lr_min / lr_const)^x over the annealing, x the progress within each

    When: a base of unknown length that is trained at a high rate first; stages go on from its plateau.

    Source: Ibrahim et al. 2403.08763, section 7.3.
    """
    return _infinite("cosine", lr_max, lr_const, warmup_tokens, cooldown_tokens, constant_tokens, anneal_tokens, lr_min)


def infinite_inv_sqrt(
    lr_max: float, lr_const: float, warmup_tokens: int, cooldown_tokens: int, constant_tokens: int,
    anneal_tokens: int = 0, lr_min: float = 0.0,
) -> Schedule:  # fmt: skip
    """As infinite-cosine, with a cooldown that falls fast at first and slowly later.

    Formula: lr(t) = lr_max t / W for t < W; lr_max + (lr_const - lr_max) h(x) / h(1) with h(x) = 1 / sqrt(1 + 10 x) - 1
    over the cooldown; lr_const; lr_const (lr_min / lr_const)^x over the annealing

    When: as infinite-cosine, where less time at the highest rates is wanted.

    Source: Ibrahim et al. 2403.08763, section 7.3.
    """
    return _infinite(
        "inverse-sqrt", lr_max, lr_const, warmup_tokens, cooldown_tokens, constant_tokens, anneal_tokens, lr_min
    )


def _infinite(
    shape: str, lr_max: float, lr_const: float, warmup_tokens: int, cooldown_tokens: int, constant_tokens: int,
    anneal_tokens: int, lr_min: float,
) -> Schedule:  # fmt: skip
    return _join(
        lr_const,
        [
            ("linear", warmup_tokens, 0.0, lr_max, "warming"),
            (shape, cooldown_tokens, lr_max, lr_const, "decaying"),
            (CONSTANT, constant_tokens, lr_const, lr_const, "peak"),
            ("exponential", anneal_tokens, lr_const, lr_min, "decaying"),
        ],
    )


def cooldown(lr_start: float, tokens: int, shape: str = "1-sqrt", lr_min: float = 0.0) -> Schedule:
    """A branch's cooldown alone, from the plateau at `lr_start` to `lr_min`.

    Formula: lr(t) = lr_min + (lr_start - lr_min) remaining(t / T), by shape

    When: a converged model is wanted while the trunk goes on: keepwarm run PLAN --branch cooldown --from STAGE@peak.

    Source: Hägele et al. 2405.18392, section 3.
    """
    return _join(lr_start, [(shape, tokens, lr_start, lr_min, "decaying")])


def decay_then_introduce(lr_max: float, tokens: int, shape: str, lr_end: float) -> Schedule:
    """One decay from `lr_max` to `lr_end`, in which new data enters where `where(lr)` says.

    Formula: lr(t) = lr_end + (lr_max - lr_end) remaining(t / T), by shape; the mix changes where lr(t) = lr_max / 5

    When: the old data is still lost at LR_max with all the replay the plan allows.

    Source: Parmar et al. 2407.07263.
    """
    return _join(lr_max, [(shape, tokens, lr_max, lr_end, "decaying")])


def _join(lr_max: float, pieces: list[tuple[str, int, float, float, Phase]]) -> Schedule:
    if not 0 < lr_max < math.inf:
        raise PlanError(f"LR_max is {lr_max}", "nothing would be learned", "set a positive lr_max such as 3e-4")
    return Schedule(tuple(Piece(*piece) for piece in pieces if piece[1] != 0), lr_max)


def _refuse_overflow(total_tokens: int, parts: Mapping[str, int]) -> None:
    if sum(parts.values()) > total_tokens or min(parts.values()) < 0:
        words = " and ".join(f"a {name} of {tokens} tokens" for name, tokens in parts.items())
        raise PlanError(
            f"{words} do not fit into {total_tokens} tokens",
            "the schedule would jump or be cut off",
            f"shorten them to {total_tokens} tokens together, or train longer",
        )


BUILDERS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "wsd": wsd,
    "cosine": cosine,
    "rewarm": rewarm,
    "inverse-square-root": inverse_square_root,
    "infinite-cosine": infinite_cosine,
    "infinite-inv-sqrt": infinite_inv_sqrt,
    "cooldown": cooldown,
    "decay-then-introduce": decay_then_introduce,
}
