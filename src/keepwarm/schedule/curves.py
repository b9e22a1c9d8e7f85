"""The shapes of a fall: how much of the way from the first LR to the last is still to go at progress x in [0, 1].

Each is 1 at x = 0, 0 at x = 1 and never rises, so that

    lr(x) = lr_end + (lr_start - lr_end) * remaining(x)

| shape        | remaining(x)                                  | source                                             |
|--------------|-----------------------------------------------|----------------------------------------------------|
| linear       | 1 - x                                         | Hägele et al. 2405.18392; OLMo 2 2501.00656        |
| cosine       | (1 + cos(pi x)) / 2                           | Loshchilov and Hutter 1608.03983                   |
| 1-sqrt       | 1 - sqrt(x)                                   | Hägele et al. 2405.18392                           |
| exponential  | (q^x - q) / (1 - q), q = lr_end / lr_start    | MiniCPM 2404.06395; Ibrahim et al. 2403.08763      |
| inverse-sqrt | 1 - h(x) / h(1), h(x) = 1 / sqrt(1 + 10x) - 1 | Ibrahim et al. 2403.08763, "infinite inverse sqrt" |

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
    """1 - x; `ratio` = lr_end / lr_start plays no part."""
    return 1.0 - x


def cosine(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """Half a cosine wave, flat at both ends; `ratio` plays no part."""
    return 0.5 * (np.cos(np.pi * x) + 1.0)


def one_minus_sqrt(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """1 - sqrt(x): steep at first, gentle at the end; `ratio` plays no part."""
    return 1.0 - np.sqrt(x)


def exponential(x: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Gives lr_start * (lr_end / lr_start)^x, `ratio` = lr_end / lr_start in (0, 1).

    MiniCPM's 0.5^(tokens / T) is this with lr_end = lr_start * 0.5^(piece's tokens / T).
    """
    remaining: NDArray[np.float64] = (np.power(ratio, x) - ratio) / (1.0 - ratio)
    return remaining


def inverse_sqrt(x: NDArray[np.float64], ratio: float = 0.0) -> NDArray[np.float64]:
    """Falls like 1 / sqrt(1 + 10 x), stretched to end at lr_end; `ratio` plays no part."""
    return 1.0 - (1.0 / np.sqrt(1.0 + _TIMESCALE * x) - 1.0) / (1.0 / math.sqrt(1.0 + _TIMESCALE) - 1.0)


SHAPES: dict[str, Curve] = {
    "linear": linear,
    "cosine": cosine,
    "1-sqrt": one_minus_sqrt,
    "exponential": exponential,
    "inverse-sqrt": inverse_sqrt,
}
