"""The trainer's flags that concern the learning rate, as Megatron-DeepSpeed's argument parser reads them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from keepwarm.errors import PlanError

STYLES = ("constant", "linear", "cosine", "inverse-square-root", "infinite-cosine", "infinite-inv-square-root")
INFINITE = ("infinite-cosine", "infinite-inv-square-root")
_WEIGHT_DECAY_STYLES = ("constant", "linear", "cosine")
_NEIGHBOURS = (
    "--micro-batch-size",
    "--train-iters-to-skip",
    "--load-tag",
    "--eval-iters",
)  # only look like one of ours
_MOST = 10**15  # no rate, share or count of a run is that large; nan is not below it either
_SIMILAR = 0.72  # from here on a flag that is not ours counts as a misspelling of one that is
_UNDERSCORED = {  # the flags that are not their attribute's name with dashes
    "lr_constant_plus_cooldown": "--lr_constant_plus_cooldown",
    "lr_constant_plus_cooldown_frac": "--lr_constant_plus_cooldown_frac",
    "override_opt_param_scheduler": "--override-opt_param-scheduler",
    "use_checkpoint_opt_param_scheduler": "--use-checkpoint-opt_param-scheduler",
}


@dataclass(frozen=True, slots=True)
class Flags:
    """What the trainer's `args` hold, attribute by attribute with the parser's defaults (Megatron-DeepSpeed ffa3456d).

    `given` names the attributes that were set on the command line; `others` the flags that do not concern the LR.
    """

    lr: float | None = None
    min_lr: float = 0.0
    lr_decay_style: str = "linear"
    lr_decay_iters: int | None = None
    lr_decay_samples: int | None = None
    lr_decay_tokens: int | None = None
    lr_warmup_fraction: float | None = None
    lr_warmup_iters: int = 0
    lr_warmup_samples: int = 0
    lr_warmup_tokens: int | None = None
    constant_lr: float = 1.1e-4
    lr_cooldown_fraction: float = 0.65
    lr_constant_fraction: float = 0.001
    lr_cooldown_tokens: int | None = None
    lr_constant_tokens: int | None = None
    lr_constant_plus_cooldown: bool = False
    lr_constant_plus_cooldown_frac: float = 0.05
    timescale: float = 10.0
    train_iters: int | None = None
    train_samples: int | None = None
    train_tokens: int | None = None
    global_batch_size: int | None = None
    seq_length: int | None = None
    rampup_batch_size: tuple[int, int, int] | None = None
    weight_decay: float = 0.01
    start_weight_decay: float | None = None
    end_weight_decay: float | None = None
    weight_decay_incr_style: str = "constant"
    override_opt_param_scheduler: bool = False
    use_checkpoint_opt_param_scheduler: bool = False
    finetune: bool = False
    universal_checkpoint: bool = False
    load: str | None = None
    given: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The flags that were given and concern the LR, as command-line words."""
        found: list[str] = []
        for name in (field.name for field in fields(self) if field.name in self.given):
            value = getattr(self, name)
            texts = [] if value is True else [_text(each) for each in (value if isinstance(value, tuple) else (value,))]
            found += [option(name), *texts] if value is not False else []
        return found


def option(attribute: str) -> str:
    """The flag that sets an attribute of the trainer's `args`."""
    return _UNDERSCORED.get(attribute, "--" + attribute.replace("_", "-"))


_ATTRIBUTES = [field.name for field in fields(Flags) if field.name not in ("given", "others")]
_OPTIONS = {option(name): name for name in _ATTRIBUTES}
_SWITCHES = {field.name for field in fields(Flags) if field.type in ("bool", bool)}
_FLOATS = {
    "lr", "min_lr", "lr_warmup_fraction", "constant_lr", "lr_cooldown_fraction", "lr_constant_fraction",
    "lr_constant_plus_cooldown_frac", "timescale", "weight_decay", "start_weight_decay", "end_weight_decay",
}  # fmt: skip
_CHOICES = {"lr_decay_style": STYLES, "weight_decay_incr_style": _WEIGHT_DECAY_STYLES}


def parse_flags(words: Sequence[str]) -> Flags:
    """The flags of a trainer's command line; the last of a repeated flag counts, as in the trainer.

    Raises PlanError on a flag that looks like one of these and is none (the trainer knows no abbreviations), on a value
    that the trainer's parser refuses, and on stray words. Other flags are passed over with their values and listed.
    """
    values: dict[str, Any] = {}
    others: list[str] = []
    for flag, texts in _grouped(words):
        name = _OPTIONS.get(flag)
        if name is not None:
            values[name] = _value(name, flag, texts)
        elif flag in _NEIGHBOURS or not (near := _nearest(flag)):
            others.append(flag)
        else:
            raise PlanError(
                f"{flag}: the trainer has no such flag, and takes no abbreviations",
                "it would stop at start, or the learning rate would not be the one you mean",
                f"{near} {' '.join(texts)}".strip(),
            )
    return Flags(**values, given=frozenset(values), others=tuple(dict.fromkeys(others)))


def flags_of_args(args: Mapping[str, Any]) -> Flags:
    """The flags behind the `args` namespace that a checkpoint holds, `vars(args)`; other attributes are passed over.

    The trainer fills some in itself after parsing (iterations of a run by samples, the decay's length, both ends of a
    constant weight decay); those are taken back, so that they don't contradict what was given.
    """
    values = {name: args[name] for name in _ATTRIBUTES if args.get(name) is not None}
    if values.get("train_samples"):
        values.pop("train_iters", None)
    for filled, source in (("lr_decay_iters", "train_iters"), ("lr_decay_samples", "train_samples")):
        if values.get(filled) == values.get(source):
            values.pop(filled, None)
    if values.get("weight_decay_incr_style", "constant") == "constant":
        values.pop("start_weight_decay", None)
        values.pop("end_weight_decay", None)
    texts = {name: _texts_of(value) for name, value in values.items() if name not in _SWITCHES}
    read = {name: _value(name, option(name), text) for name, text in texts.items()}
    read |= {name: bool(args[name]) for name in _SWITCHES if args.get(name) is not None}
    defaults = Flags()
    return Flags(**read, given=frozenset(name for name, value in read.items() if value != getattr(defaults, name)))


def _texts_of(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(flag, its words) in order; `--flag=value` is cut at the sign."""
    flag, texts = "", list[str]()
    for word in words:
        if word.startswith("-") and not _is_number(word):
            if flag:
                yield flag, texts
            flag, sign, value = word.partition("=")
            texts = [value] if sign else []
        elif flag:
            texts.append(word)
        else:
            raise PlanError(
                f"{word!r} belongs to no flag",
                "the trainer takes nothing but flags and would stop at start",
                "put its flag before it, as in --lr 2e-4",
            )
    if flag:
        yield flag, texts


def _value(name: str, flag: str, texts: Sequence[str]) -> Any:
    if name == "rampup_batch_size":
        return tuple(_number(int, flag, text, "whole number") for text in _several(flag, texts))
    if name in _SWITCHES:
        if texts:
            _refuse(flag, f"takes no value, got {' '.join(texts)!r}", flag)
        return True
    if len(texts) != 1:
        _refuse(flag, f"takes one value, got {len(texts)}", f"{flag} {texts[0] if texts else 'VALUE'}")
    if name == "load":
        return texts[0]
    if name in _CHOICES:
        if texts[0] not in _CHOICES[name]:
            near = difflib.get_close_matches(texts[0], _CHOICES[name], 1, 0) or _CHOICES[name][:1]
            _refuse(flag, f"{texts[0]!r} is not one of {', '.join(_CHOICES[name])}", f"{flag} {near[0]}")
        return texts[0]
    if name in _FLOATS:
        return _number(float, flag, texts[0], "number")
    return _number(int, flag, texts[0], "whole number, written out in digits")


def _several(flag: str, texts: Sequence[str]) -> Sequence[str]:
    if len(texts) != 3:
        _refuse(flag, f"takes START INCREMENT SAMPLES, got {len(texts)} values", f"{flag} 16 8 300000")
    return texts


def _number(kind: Callable[[str], Any], flag: str, text: str, called: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        _refuse(flag, f"{text!r} is not a {called}", _pasteable(kind, flag, text))
    if abs(value) < _MOST:
        return value
    raise PlanError(
        f"{flag} {text}: no run has that",
        "the trainer's parser takes it, and no learning rate can be computed with it",
        _pasteable(kind, flag, ""),
    )


def _pasteable(kind: Callable[[str], Any], flag: str, text: str) -> str:
    """`22e9` is what people write for a count."""
    if kind is int and _is_number(text) and float(text).is_integer():
        return f"{flag} {int(float(text))}"
    return f"{flag} {'2000' if kind is int else '2e-4'}"


def _refuse(flag: str, what: str, fix: str) -> None:
    raise PlanError(f"{flag} {what}", "the trainer's parser refuses it, and nothing would be trained", fix)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _nearest(flag: str) -> str:
    """The flag of ours that `flag` looks like, or nothing."""
    plain = flag.replace("_", "-").lower()
    ours = {each.replace("_", "-"): each for each in _OPTIONS}
    longer = sorted((each for each in ours if each.startswith(plain)), key=len) if plain != "--" else []
    close = difflib.get_close_matches(plain, ours, 1, _SIMILAR)
    return ours[(longer or close)[0]] if longer or close else ""


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
