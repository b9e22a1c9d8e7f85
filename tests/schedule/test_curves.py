import numpy as np
import pytest

from keepwarm.schedule.curves import SHAPES

X = np.linspace(0.0, 1.0, 1001)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_runs_from_one_to_zero_and_never_rises(shape: str) -> None:
    remaining = SHAPES[shape](X, 0.01)
    assert remaining[0] == 1.0 and remaining[-1] == 0.0
    assert np.all(np.diff(remaining) <= 0)


@pytest.mark.parametrize(
    ("shape", "at_quarter"),
    [
        ("linear", 0.75),
        ("cosine", 0.5 + 0.5 * 0.5**0.5),
        ("1-sqrt", 0.5),
        ("exponential", (0.01**0.25 - 0.01) / 0.99),
        ("inverse-sqrt", 1 - (3.5**-0.5 - 1) / (11**-0.5 - 1)),
        ("inverse-square-root", ((1 + 9999 / 4) ** -0.5 - 0.01) / 0.99),
    ],
)
def test_a_quarter_of_the_way(shape: str, at_quarter: float) -> None:
    assert SHAPES[shape](np.array([0.25]), 0.01)[0] == pytest.approx(at_quarter, rel=1e-14)


def test_exponential_halves_the_lr_in_equal_times() -> None:
    # down to 1/8: half after a third of the way, a quarter after two thirds
    lr = 0.125 + 0.875 * SHAPES["exponential"](np.array([1 / 3, 2 / 3]), 0.125)
    np.testing.assert_allclose(lr, [0.5, 0.25], rtol=1e-14)
