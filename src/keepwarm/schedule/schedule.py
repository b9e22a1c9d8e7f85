"""The learning rate as a pure function of tokens: pieces joined end to end, and the questions asked of them.

A schedule counts the tokens of its own attempt from 0. The step that starts after t tokens uses lr(t); so the first
step of a warm-up from 0 uses 0, as in Megatron-DeepSpeed. A piece covers [begin, end): at a boundary the next piece
speaks, and after the last piece its end LR holds.

Phases of a checkpoint taken at t: `warming` until the warm-up's end; `peak` while LR == LR_max and nothing has
decayed, both ends included; `decaying`; `cooled` once the last decay is complete. A checkpoint on a plateau below
LR_max, behind a decay, is `cooled` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepwarm.errors import PlanError
from keepwarm.schedule.curves import SHAPES

Phase = Literal["warming", "peak", "decaying", "cooled"]
PEAK_TOLERANCE = 1e-6  # relative: how near LR_max counts as at peak
CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Piece:
    """`tokens` of one shape: a linear rise (`warming`), `constant` (`peak` or `cooled`), or a fall (`decaying`)."""

    shape: str  # "constant" or a name of curves.SHAPES
    tokens: int
    lr_start: float
    lr_end: float
    phase: Phase

    def __post_init__(self) -> None:
        """Raise PlanError on an unknown shape, a length below one token, or LRs that do not fit shape and phase."""
        _refuse_piece(self)

    def at(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """LR after `tokens` of this piece, (N,) in [0, self.tokens]."""
        x = tokens / self.tokens
        if self.lr_end == self.lr_start:
            return np.full(x.shape, self.lr_start)
        if self.lr_end > self.lr_start:
            return self.lr_start + (self.lr_end - self.lr_start) * x
        remaining = SHAPES[self.shape](x, self.lr_end / self.lr_start)
        return self.lr_end + (self.lr_start - self.lr_end) * remaining


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
        t = np.asarray(tokens, dtype=np.int64)
        assert np.all(t >= 0), "tokens are counted from the attempt's start"
        flat = t.reshape(-1)
        ends = np.array(list(accumulate(piece.tokens for piece in self.pieces)), dtype=np.int64)
        number = np.minimum(np.searchsorted(ends, flat, side="right"), len(self.pieces) - 1)
        lr = np.empty(flat.shape, dtype=np.float64)
        for k, piece in enumerate(self.pieces):
            here = number == k
            lr[here] = piece.at(np.minimum(flat[here] - (ends[k] - piece.tokens), piece.tokens))
        return lr.reshape(t.shape) if t.ndim else float(lr[0])

    def phase(self, tokens: int) -> Phase:
        """Phase of the checkpoint taken after `tokens` tokens."""
        begin = 0
        for piece in self.pieces:
            if tokens < begin + piece.tokens:
                nothing_decayed = tokens == begin and piece.phase == "decaying" and self._is_peak(piece.lr_start)
                return "peak" if nothing_decayed else piece.phase
            begin += piece.tokens
        if piece.phase == "decaying":
            return "cooled"
        return "peak" if piece.phase == "warming" and self._is_peak(piece.lr_end) else piece.phase

    def where(self, lr: float, falling: bool = True) -> int:
        """The first token count at which LR has come down to `lr` (up to it, if not `falling`), exact.

        Found by bisection over whole tokens on the curve itself. Raises PlanError if LR never crosses `lr` that way.
        """
        begin, previous = 0, math.nan
        for piece in self.pieces:
            if _crosses(previous, piece.lr_start, lr, falling):
                return begin
            if _crosses(piece.lr_start, piece.lr_end, lr, falling):
                return begin + _first_beyond(piece, lr, falling)
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
        kept, begin = [], 0
        for piece in self.pieces:
            length = min(piece.tokens, at_tokens - begin)
            if length > 0:
                kept.append(replace(piece, tokens=length))
            begin += piece.tokens
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

    def _is_peak(self, lr: float) -> bool:
        return abs(lr - self.lr_max) <= PEAK_TOLERANCE * self.lr_max

    def _last_peak(self) -> int:
        ends = [0, *accumulate(piece.tokens for piece in self.pieces)]
        return max((end for end in ends if self.phase(end) == "peak"), default=0)


def _crosses(start: float, end: float, lr: float, falling: bool) -> bool:
    return start > end and end <= lr <= start if falling else start < end and start <= lr <= end


def _first_beyond(piece: Piece, lr: float, falling: bool) -> int:
    """The first token count of a monotone piece at which its LR is <= lr (>= lr if not falling)."""
    low, high = 0, piece.tokens
    while low < high:
        middle = (low + high) // 2
        value = float(piece.at(np.array([middle]))[0])
        low, high = (low, middle) if (value <= lr if falling else value >= lr) else (middle + 1, high)
    return low


def _refuse_piece(piece: Piece) -> None:
    why, fix = "an LR curve must be what it is called", "make it with one of the schedule's builders"
    name = f"schedule piece {piece.shape} ({piece.phase}) from LR {piece.lr_start:g} to {piece.lr_end:g}"
    if piece.shape != CONSTANT and piece.shape not in SHAPES:
        raise PlanError(
            f"{piece.shape!r} is not the shape of a decay",
            "the LR curve would be anyone's guess",
            f"choose one of {', '.join(SHAPES)}",
        )
    if not isinstance(piece.tokens, int) or piece.tokens < 1:
        raise PlanError(f"{name} has {piece.tokens} tokens", why, "give it a whole number of tokens, at least 1")
    if not (0 <= piece.lr_start < math.inf and 0 <= piece.lr_end < math.inf):
        raise PlanError(f"{name}: an LR is negative or not finite", why, "give an LR of 0 or more")
    direction = (piece.lr_end > piece.lr_start) - (piece.lr_end < piece.lr_start)
    fits = {
        "warming": direction == 1 and piece.shape == "linear",
        "peak": direction == 0 and piece.shape == CONSTANT,
        "cooled": direction == 0 and piece.shape == CONSTANT,
        "decaying": direction == -1 and piece.shape != CONSTANT,
    }
    if not fits.get(piece.phase, False):
        raise PlanError(f"{name}: LR, shape and phase contradict each other", why, fix)
    if piece.shape == "exponential" and not piece.lr_end:
        raise PlanError(f"{name}: an exponential never reaches 0", why, "set its last LR above 0, or take 1-sqrt")


def constant(lr: float, tokens: int) -> Schedule:
    """The trunk: LR stays at `lr`."""
    return _join(lr, [(CONSTANT, tokens, lr, lr, "peak")])


def wsd(
    lr_max: float,
    warmup_tokens: int,
    total_tokens: int,
    cooldown_tokens: int = 0,
    shape: str = "1-sqrt",
    lr_min: float = 0.0,
) -> Schedule:
    """Warm-up, plateau, cooldown: the cookbook's schedule. `total_tokens` holds all three.

    Source: MiniCPM 2404.06395 and Hägele et al. 2405.18392. Raises PlanError if warm-up and cooldown do not fit.
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
    """Warm-up, then a cosine decay to `lr_min` over the rest of `total_tokens`."""
    return rewarm(lr_max, warmup_tokens, total_tokens, "cosine", lr_min)


def rewarm(lr: float, warmup_tokens: int, total_tokens: int, then: str = CONSTANT, lr_min: float = 0.0) -> Schedule:
    """Warm-up from 0 to `lr`, then constant, or a decay of shape `then` to `lr_min` over the rest.

    Source: Gupta et al. 2308.04014, Ibrahim et al. 2403.08763. Its plateau is the LR_max from here on.
    """
    decay_tokens = 0 if then == CONSTANT else max(1, total_tokens - warmup_tokens)  # a decay of none does not fit
    return wsd(lr, warmup_tokens, total_tokens, decay_tokens, then, lr_min)


def infinite(
    lr_max: float,
    lr_const: float,
    warmup_tokens: int,
    cooldown_tokens: int,
    constant_tokens: int,
    anneal_tokens: int = 0,
    shape: str = "cosine",
    lr_min: float = 0.0,
) -> Schedule:
    """Warm-up, a cooldown (`cosine` or `inverse-sqrt`) to a plateau at `lr_const`, an exponential annealing.

    Source: Ibrahim et al. 2403.08763 section 7.3. The plateau is what counts as peak: `lr_max` of the result is
    `lr_const`.
    """
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
    """A branch's cooldown alone, from the plateau at `lr_start` to `lr_min`."""
    return _join(lr_start, [(shape, tokens, lr_start, lr_min, "decaying")])


def decay_then_introduce(lr_max: float, tokens: int, shape: str, lr_end: float) -> Schedule:
    """One decay from `lr_max` to `lr_end`, in which new data enters where `where(lr)` says. Source: 2407.07263."""
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
