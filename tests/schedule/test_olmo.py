"""Our curves against OLMo-core's schedulers, step by step, where both know the shape."""

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from keepwarm.schedule.schedule import Schedule, constant, inverse_square_root, rewarm, wsd

LR, STEPS, WARMUP, DECAY = 3e-4, 2000, 100, 400


@pytest.fixture(scope="module")
def olmo() -> Iterator[ModuleType]:
    """`olmo_core.optim.scheduler` alone: the packages around it would import a whole training stack."""
    before = set(sys.modules)
    spec = importlib.util.find_spec("olmo_core.version")  # finds the package without its heavy parts
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    packages = {"olmo_core": root, "olmo_core.optim": root / "optim", "olmo_core.distributed": root / "distributed"}
    for name, path in packages.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    empty: dict[str, dict[str, Any]] = {
        "cached_path": {"cached_path": None},
        "olmo_core.optim.config": {"INITIAL_LR_FIELD": "initial_lr", "LR_FIELD": "lr"},
        "olmo_core.distributed.utils": {"get_rank": lambda: 0},
    }
    for name, content in empty.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    yield importlib.import_module("olmo_core.optim.scheduler")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("olmo_core", "cached_path"):
            del sys.modules[name]


def theirs(scheduler: Any) -> list[float]:
    return [scheduler.get_lr(LR, step, STEPS) for step in range(STEPS + 1)]


def same(schedule: Schedule, scheduler: Any) -> None:
    np.testing.assert_allclose(schedule.lr(np.arange(STEPS + 1)), theirs(scheduler), rtol=1e-12, atol=1e-24)


def test_the_release_that_is_compared_with() -> None:
    assert version("ai2-olmo-core").startswith("3.")


def test_warm_up_then_constant(olmo: ModuleType) -> None:
    same(rewarm(LR, WARMUP, STEPS), olmo.ConstantWithWarmup(warmup=WARMUP))
    same(constant(LR, STEPS), olmo.ConstantScheduler())


def test_wsd_with_a_linear_decay(olmo: ModuleType) -> None:
    same(
        wsd(LR, WARMUP, STEPS, DECAY, "linear", LR / 20),
        olmo.WSD(warmup=WARMUP, decay=DECAY, decay_fraction=None, decay_min_lr=LR / 20),
    )


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_cosine_and_linear_decays(olmo: ModuleType, share: float) -> None:
    same(rewarm(LR, WARMUP, STEPS, "cosine", LR * share), olmo.CosWithWarmup(warmup=WARMUP, alpha_f=share))
    same(rewarm(LR, WARMUP, STEPS, "linear", LR * share), olmo.LinearWithWarmup(warmup=WARMUP, alpha_f=share))


def test_inverse_square_root(olmo: ModuleType) -> None:
    same(inverse_square_root(LR, WARMUP, STEPS), olmo.InvSqrtWithWarmup(warmup=WARMUP, alpha_f=0.0))


def test_exponential(olmo: ModuleType) -> None:
    falling = wsd(LR, 0, STEPS, STEPS, "exponential", LR / 100)
    rising = [olmo.ExponentialScheduler(lr_min=LR / 100).get_lr(LR, step, STEPS) for step in range(STEPS + 1)]
    np.testing.assert_allclose(falling.lr(np.arange(STEPS + 1)), rising[::-1], rtol=1e-12)


def test_a_line_of_stages_with_a_cooldown_each_is_their_wsds(olmo: ModuleType) -> None:
    """WSD-S (2410.05192): each period a plateau and a decay; ours are the trunk's branches, put one after the other."""
    periods = [500, 700, 800]
    schedule = olmo.WSDS(period_lengths=periods, warmup=WARMUP, decay=100)
    ours, warmup = [], WARMUP
    for period in periods:
        ours.append(wsd(LR, warmup, period, 100, "linear"))
        warmup = 0
    begin = 0
    for leg in ours:
        steps = np.arange(1, leg.tokens)  # a border belongs to both: the end of one decay, the plateau of the next
        rates = [schedule.get_lr(LR, begin + int(step), STEPS) for step in steps]
        np.testing.assert_allclose(leg.lr(steps), rates, rtol=1e-12)
        begin += leg.tokens
