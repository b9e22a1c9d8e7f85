"""The shapes of a fall: how much of the way from the first LR to the last is still to go at progress x in [0, 1].

Each is 1 at x = 0, 0 at x = 1 and never rises, so that

    lr(x) = lr_end + (lr_start - lr_end) * remaining(x)

They are written as what remains, not as what is done, so that an LR near 0 keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_TIMESCALE = 10.0  # the steepness which 2403.08763 and Megatron-DeepSpeed use

Curve = Callable[[NDArray[np.float64], float], NDArray[np.float64]]


def linear(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """A straight fall; `ratio` = lr_end / lr_start plays no part.

    Formula: lr(x) = lr_end + (lr_start - lr_end) (1 - x)

    When: a cooldown, where it does about as well as 1-sqrt; the second shape to try in decay-then-introduce.

    Source: Hägele et al. 2405.18392, section 3; OLMo 2 2501.00656 decays linearly to 0.
    """
    return 1.0 - x


def cosine(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """Half a cosine wave, flat at both ends; `ratio` plays no part.

    Formula: lr(x) = lr_end + (lr_start - lr_end) (1 + cos(pi x)) / 2

    When: a run whose length is known from the start; the first shape to try in decay-then-introduce.

    Source: Loshchilov and Hutter 1608.03983, equation 5.
    """
    return 0.5 * (np.cos(np.pi * x) + 1.0)


def one_minus_sqrt(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """Steep at first, gentle at the end; `ratio` plays no part.

    Formula: lr(x) = lr_end + (lr_start - lr_end) (1 - sqrt(x))

    When: the cooldown of a trunk at LR_max.

    Source: Hägele et al. 2405.18392, section 3.
    """
    return 1.0 - np.sqrt(x)


def exponential(x: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Falls by the same factor in every token; `ratio` = lr_end / lr_start lies in (0, 1), so it never reaches 0.

    Formula: lr(x) = lr_start (lr_end / lr_start)^x

    When: the annealing that ends an infinite schedule. MiniCPM's 0.5^(tokens / T) is this with
    lr_end = lr_start 0.5^(piece's tokens / T).

    Source: Ibrahim et al. 2403.08763, section 7.3; MiniCPM 2404.06395, section 4.
    """
    remaining: NDArray[np.float64] = (np.power(ratio, x) - ratio) / (1.0 - ratio)
    return remaining


def inverse_sqrt(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """Falls like 1 / sqrt(1 + 10 x), stretched to end at lr_end; `ratio` plays no part.

    Formula: lr(x) = lr_start + (lr_end - lr_start) h(x) / h(1), h(x) = 1 / sqrt(1 + 10 x) - 1

    When: the first cooldown of an infinite schedule, in place of a cosine.

    Source: Ibrahim et al. 2403.08763, section 7.3, "infinite inverse square root".
    """
    return 1.0 - (1.0 / np.sqrt(1.0 + _TIMESCALE * x) - 1.0) / (1.0 / math.sqrt(1.0 + _TIMESCALE) - 1.0)


def inverse_square_root(x: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Falls like 1 / sqrt(tokens), without an end of its own; `ratio` = lr_end / lr_start in (0, 1) says how far.

    Formula: lr(x) = lr_start / sqrt(1 + x (1 / q^2 - 1)), q = lr_end / lr_start. Behind a warm-up of W tokens that is
    lr_start sqrt(W / t) with q = sqrt(W / T).

    When: a run without a planned length; each cooldown branches off wherever it stands. LR is at peak nowhere on it.

    Source: Vaswani et al. 1706.03762, equation 3; Zhai et al. 2106.04560, section 3.5, with cooldowns.
    """
    remaining: NDArray[np.float64] = (1.0 / np.sqrt(1.0 + x * (1.0 / ratio**2 - 1.0)) - ratio) / (1.0 - ratio)
    return remaining


SHAPES: dict[str, Curve] = {
    "linear": linear,
    "cosine": cosine,
    "1-sqrt": one_minus_sqrt,
    "exponential": exponential,
    "inverse-sqrt": inverse_sqrt,
    "inverse-square-root": inverse_square_root,
}
NEVER_ZERO = ("exponential", "inverse-square-root")  # shapes that only approach 0
