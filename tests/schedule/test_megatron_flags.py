"""The trainer's flags as its parser reads them."""

from __future__ import annotations

import re

import pytest

from keepwarm.errors import PlanError
from keepwarm.schedule.megatron import Flags, parse_flags


def test_defaults_are_the_parsers() -> None:
    found = parse_flags([])
    assert found == Flags()
    assert (found.constant_lr, found.min_lr, found.lr_cooldown_fraction, found.lr_constant_fraction) == (
        1.1e-4,
        0,
        0.65,
        0.001,
    )
    assert (found.lr_constant_plus_cooldown_frac, found.timescale, found.lr_decay_style) == (0.05, 10.0, "linear")


def test_every_spelling_the_parser_takes() -> None:
    words = (
        "--lr=2e-4 --min-lr 2e-6 --lr-decay-style cosine --lr_constant_plus_cooldown --lr_constant_plus_cooldown_frac=.1 "
        "--rampup-batch-size 16 8 300000 --override-opt_param-scheduler --train-iters 20 --lr 3e-4"
    )
    found = parse_flags(words.split())
    assert (found.lr, found.min_lr, found.rampup_batch_size, found.train_iters) == (3e-4, 2e-6, (16, 8, 300000), 20)
    assert found.lr_constant_plus_cooldown and found.override_opt_param_scheduler
    assert parse_flags(found.words()) == found


def test_other_flags_are_passed_over_with_their_values_and_listed() -> None:
    words = "--bf16 --data-path .5 a .5 b --lr 2e-4 --seed -1 --micro-batch-size 4 --train-iters-to-skip 3 4 --bf16"
    found = parse_flags(words.split())
    assert found.lr == 2e-4
    assert found.others == ("--bf16", "--data-path", "--seed", "--micro-batch-size", "--train-iters-to-skip")


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (
            "--lr-warmup-frac 0.01",
            "the trainer has no such flag, and takes no abbreviations",
            "--lr-warmup-fraction 0.01",
        ),
        ("--lr-cooldown-frac .3", "no such flag", "--lr-cooldown-fraction .3"),
        ("--lr-constant-plus-cooldown", "no such flag", "--lr_constant_plus_cooldown"),
        ("--override-opt-param-scheduler", "no such flag", "--override-opt_param-scheduler"),
        ("--minlr 1e-5", "no such flag", "--min-lr 1e-5"),
        ("--train-iter 20", "no such flag", "--train-iters 20"),
        ("--lr-decay-style infinite_cosine", "is not one of constant, linear", "--lr-decay-style infinite-cosine"),
        ("--train-tokens 22e9", "'22e9' is not a whole number, written out in digits", "--train-tokens 22000000000"),
        ("--train-iters 20.5", "is not a whole number", "--train-iters 2000"),
        ("--lr nan", "--lr nan: no run has that", "--lr 2e-4"),
        ("--min-lr inf", "the trainer's parser takes it", "--min-lr 2e-4"),
        ("--train-iters 1_000_000_000_000_000", "no run has that", "--train-iters 2000"),
        ("--lr", "takes one value, got 0", "--lr VALUE"),
        ("--lr 1e-4 2e-4", "takes one value, got 2", "--lr 1e-4"),
        ("--finetune yes", "takes no value, got 'yes'", "--finetune"),
        ("--rampup-batch-size 16 8", "takes START INCREMENT SAMPLES, got 2", "--rampup-batch-size 16 8 300000"),
        ("2e-4", "'2e-4' belongs to no flag", "put its flag before it, as in --lr 2e-4"),
    ],
)
def test_what_the_parser_refuses(words: str, said: str, fix: str) -> None:
    with pytest.raises(PlanError, match=re.escape(said)) as caught:
        parse_flags(words.split())
    assert caught.value.fix == fix
