"""A piece of a schedule: one shape over so many tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from keepwarm.errors import PlanError
from keepwarm.schedule.curves import NEVER_ZERO, SHAPES

Phase = Literal["warming", "peak", "decaying", "cooled"]
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

    def crosses(self, lr: float, falling: bool) -> bool:
        """True if LR comes down to `lr` within the piece (up to it, if not `falling`)."""
        return crosses(self.lr_start, self.lr_end, lr, falling)

    def first_beyond(self, lr: float, falling: bool) -> int:
        """The first token count at which LR is <= `lr` (>= `lr` if not `falling`), by bisection over whole tokens."""
        low, high = 0, self.tokens
        while low < high:
            middle = (low + high) // 2
            value = float(self.at(np.array([middle]))[0])
            low, high = (low, middle) if (value <= lr if falling else value >= lr) else (middle + 1, high)
        return low


def crosses(start: float, end: float, lr: float, falling: bool) -> bool:
    """True if going from `start` to `end` passes `lr` in the direction asked."""
    return start > end and end <= lr <= start if falling else start < end and start <= lr <= end


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
    if piece.phase == "decaying" and direction != -1:
        raise PlanError(
            f"a {piece.shape} decay from LR {piece.lr_start:g} to {piece.lr_end:g} does not fall",
            why,
            f"end it below {piece.lr_start:g}, or leave it out",
        )
    if not fits.get(piece.phase, False):
        raise PlanError(f"{name}: LR, shape and phase contradict each other", why, fix)
    if piece.shape in NEVER_ZERO and not piece.lr_end:
        raise PlanError(
            f"{name}: an {piece.shape} decay never reaches 0", why, "set its last LR above 0, or take 1-sqrt"
        )
