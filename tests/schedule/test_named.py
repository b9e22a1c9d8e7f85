"""Schedules in one line of words."""

from __future__ import annotations

import pytest

from keepwarm.errors import PlanError
from keepwarm.schedule import schedule as schedules
from keepwarm.schedule.named import named_schedule

SIZES = "global_batch_size=8 sequence_length=16"
TOTAL = 256_000

MADE = {
    "constant lr_max=2e-4 tokens=256k": schedules.constant(2e-4, TOTAL),
    "wsd lr_max=2e-4 tokens=256k warmup=1% cooldown=10% lr_min=lr_max/100": schedules.wsd(
        2e-4, 2560, TOTAL, 25600, lr_min=2e-6
    ),
    "wsd lr_max=2e-4 tokens=255_999 warmup=2560 cooldown_shape=linear cooldown=25600 lr_min=0": schedules.wsd(
        2e-4, 2560, TOTAL, 25600, "linear"
    ),
    "cosine lr_max=2e-4 tokens=256k warmup=1% lr_min=2e-6": schedules.cosine(2e-4, 2560, TOTAL, 2e-6),
    "rewarm lr_max=1e-4 tokens=256k warmup=1% then=linear": schedules.rewarm(1e-4, 2560, TOTAL, "linear"),
    "inverse-square-root lr_max=2e-4 tokens=256k warmup=1%": schedules.inverse_square_root(2e-4, 2560, TOTAL),
    "infinite-cosine lr_max=2e-4 constant_lr=lr_max/2 tokens=256k warmup=1% decay=30% constant=40% lr_min=2e-6": (
        schedules.infinite_cosine(2e-4, 1e-4, 2560, 76800, 102400, 74240, 2e-6)
    ),
    "infinite-inv-sqrt lr_max=2e-4 constant_lr=1e-4 tokens=256k decay=30%": schedules.infinite_inv_sqrt(
        2e-4, 1e-4, 0, 76800, 179200
    ),
    "cooldown lr_max=2e-4 tokens=256k": schedules.cooldown(2e-4, TOTAL),
    "decay-then-introduce lr_max=2e-4 tokens=256k shape=linear lr_min=lr_max/100": schedules.decay_then_introduce(
        2e-4, TOTAL, "linear", 2e-6
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", MADE)
def test_words_make_the_schedule(text: str) -> None:
    found = named_schedule(f"{text} {SIZES}")
    assert found.schedule == MADE[text] and found.step_tokens == 128


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("wds lr_max=3e-4", "'wds' is not the name of a schedule; there are constant, wsd", "wsd"),
        ("", "'' is not the name of a schedule", "wsd lr_max=3e-4"),
        ("wsd lr_max=3e-4 warm=1%", "wsd has no 'warm'; there are lr_max", "wsd warmup=..."),
        ("constant lr_max=3e-4 warmup=1%", "constant has no 'warmup'", "wsd lr_max=3e-4"),
        ("wsd lr_max", "'lr_max' is not KEY=VALUE", "wsd lr_max=3e-4"),
        ("wsd lr_max=3e-4 lr_max=2e-4", "lr_max is given twice", "lr_max=2e-4"),
        ("wsd lr_max=3e-4", "tokens, global_batch_size, sequence_length missing", "wsd lr_max=3e-4"),
        (f"infinite-cosine lr_max=3e-4 tokens=1M {SIZES}", "constant_lr missing", "wsd lr_max=3e-4"),
        (f"wsd lr_max=-1 tokens=1M {SIZES}", "lr_max: '-1' is not a", "wsd lr_max=3e-4"),
        (f"wsd lr_max=1 tokens=1.5 {SIZES}", "tokens: '1.5' is not a whole number", "wsd lr_max=3e-4"),
        (f"wsd lr_max=1 tokens=0 {SIZES}", "a length of 0", "wsd lr_max=3e-4"),
        (f"wsd lr_max=1 tokens=1M warmup=60% cooldown=60% {SIZES}", "do not fit into", "shorten them"),
        (f"wsd lr_max=1 tokens=1M cooldown=10% cooldown_shape=sqrt {SIZES}", "'sqrt' is not the shape of a decay", "choose"),
        (
            f"infinite-cosine lr_max=2 constant_lr=1 tokens=1280 decay=1280 constant=128 {SIZES}",
            "128 tokens longer than tokens=1280", "shorten them",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, said: str, fix: str) -> None:
    with pytest.raises(PlanError) as caught:
        named_schedule(text)
    assert said in caught.value.what and caught.value.fix.startswith(fix)
