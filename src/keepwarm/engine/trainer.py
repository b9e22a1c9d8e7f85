"""An attempt for the `Trainer` of transformers: its order of data, its learning rates, its optimizer and its start.

All pieces go into the stock Trainer. Sample n of the dataset is sample n of the attempt, a function of n alone; the
Trainer reads them in order (`train_sampling_strategy="sequential"`), so it resumes by its own means. Across processes
accelerate deals whole micro batches out in turns: every optimizer step trains on the same samples, whatever the number
of processes, as long as the batch stays the attempt's.

A sample is a window of sequence_length + 1 tokens, as input and as labels. The models of transformers shift labels by
one: position i predicts token i + 1, and the last position, which has nothing to predict, is left out of the mean. So
the loss is that over the sequence_length targets of the window, as in our own loop; the price is one position more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import TrainerCallback

from keepwarm.attempt.line import open_stream
from keepwarm.attempt.model import Attempt
from keepwarm.attempt.opened import OpenAttempt
from keepwarm.attempt.stability import STANDARD
from keepwarm.blend.boundaries import document_positions
from keepwarm.blend.stream import Stream
from keepwarm.engine import checkpoint as checkpoints
from keepwarm.engine import model as models
from keepwarm.engine.build import blueprint_of, check_documents
from keepwarm.engine.network import network_of
from keepwarm.engine.optimizer import adamw
from keepwarm.errors import KeepwarmError

Sample = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class TrainerParts:
    """What goes into `Trainer(model, TrainingArguments(..., **arguments), train_dataset=dataset,
    optimizers=(optimizer, scheduler), callbacks=[callback])`."""

    model: nn.Module
    arguments: dict[str, Any]
    dataset: AttemptDataset
    optimizer: torch.optim.Optimizer
    scheduler: AttemptLR
    callback: FollowsAttempt


def trainer_parts(
    opened: OpenAttempt, *, processes: int | None = None, micro_batch_size: int | None = None
) -> TrainerParts:
    """The model, its weights and moments where the attempt starts, and all that makes a Trainer follow it.

    `processes` and `micro_batch_size` as for `training_arguments`. Raises KeepwarmError for what a Trainer can't do.
    """
    if find_spec("accelerate") is None:
        raise KeepwarmError(
            "the Trainer of transformers needs accelerate", "it is not installed", 'pip install "keepwarm[trainer]"'
        )
    attempt = opened.attempt
    arguments = training_arguments(attempt, processes=processes, micro_batch_size=micro_batch_size)
    torch.manual_seed(attempt.seed)
    network = network_of(blueprint_of(attempt, opened.run_folder, opened.start).whole(), attempt.document_eod)
    check_documents(network)
    model = network.model.cpu()  # the Trainer takes it to its own device, and the moments with it
    _refuse_positions(model, attempt)
    optimizer = adamw(model, attempt.optimizer)
    if opened.start is not None:
        folder = opened.run_folder / opened.start.id
        if not models.is_hugging_face(folder):  # foreign weights came with the model
            checkpoints.load(folder, opened.start, model, optimizer if attempt.moments == "keep" else None)
    dataset, scheduler = AttemptDataset(attempt, open_stream(attempt, opened.feed)), AttemptLR(optimizer, attempt)
    callback = FollowsAttempt(attempt, dataset, scheduler)
    return TrainerParts(model, arguments, dataset, optimizer, scheduler, callback)


def training_arguments(
    attempt: Attempt, *, processes: int | None = None, micro_batch_size: int | None = None
) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments that make a Trainer equal to the attempt.

    `processes`: how many train together; what torchrun or accelerate say if None. `micro_batch_size`: samples a process
    works on at a time, the attempt's if None; it changes roundings and nothing else. Raises KeepwarmError for what a
    Trainer can't do.
    """
    _refuse_unfit(attempt)
    together = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    samples = attempt.global_batch_size
    each, rest = divmod(samples, together)
    micro = min(attempt.micro_batch_size, each) if micro_batch_size is None else micro_batch_size
    if rest or micro < 1 or each % micro:
        fit = max((size for size in range(1, each + 1) if not rest and each % size == 0 and size <= micro), default=1)
        raise KeepwarmError(
            f"micro batches of {micro} in {together} processes do not make up a batch of {samples} samples",
            "a Trainer's steps have whole micro batches, the same in every process",
            f"trainer_parts(..., micro_batch_size={fit})"
            if not rest
            else f"a number of processes that divides {samples}",
        )
    return {
        "max_steps": attempt.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": each // micro,
        "max_grad_norm": attempt.optimizer.clip,
        "train_sampling_strategy": "sequential",
        "seed": attempt.seed,
    }


class AttemptDataset(Dataset[Sample]):
    """The attempt's samples by number: `input_ids` and `labels`, both the sequence_length + 1 tokens of the window, and
    `position_ids` where the plan keeps documents apart."""

    def __init__(self, attempt: Attempt, stream: Stream) -> None:
        """No token file is opened before a sample is asked for."""
        self._samples = attempt.batches.samples(attempt.steps)
        self._eod = attempt.document_eod
        self._stream = stream

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, number: int) -> Sample:
        """Sample `number` of the attempt; IndexError beyond its end."""
        if not 0 <= number < self._samples:
            raise IndexError(f"sample {number} of {self._samples}")
        window = self._stream.batch(number, number + 1)[0].astype(np.int64)
        tokens = torch.from_numpy(window[0])
        sample = {"input_ids": tokens, "labels": tokens}
        if self._eod is not None:
            sample["position_ids"] = torch.from_numpy(document_positions(window, self._eod)[0])
        return sample

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process: it opens the token files itself."""
        return self.__dict__ | {"_stream": self._stream.with_segments(self._stream.segments)}


class AttemptLR(LambdaLR):
    """The attempt's LR at every optimizer step. `base_lrs` are its LR_max, by which a checkpoint's phase can be read."""

    def __init__(self, optimizer: torch.optim.Optimizer, attempt: Attempt) -> None:
        """Set the LR of the first step."""
        for group in optimizer.param_groups:
            group["lr"] = attempt.schedule.lr_max
        super().__init__(optimizer, _rate(attempt))

    def get_lr(self) -> list[float | torch.Tensor]:
        """The LR of each group, equal to the schedule's to the bit: it is not multiplied by anything."""
        return [rate(self.last_epoch) for rate in self.lr_lambdas]


def _rate(attempt: Attempt) -> Callable[[int], float]:
    return lambda step: attempt.schedule.lr(attempt.tokens_at(step))


class FollowsAttempt(TrainerCallback):
    """Refuses to begin where the Trainer was given something else than the attempt asks: nothing differs unnoticed."""

    def __init__(self, attempt: Attempt, dataset: AttemptDataset, scheduler: AttemptLR) -> None:
        self._attempt, self._dataset, self._scheduler = attempt, dataset, scheduler

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Compare what the Trainer will do with the attempt. Raises KeepwarmError."""
        asked = training_arguments(self._attempt, processes=args.world_size, micro_batch_size=args.train_batch_size)
        found = {name: getattr(args, name) for name in asked} | {"per_device_train_batch_size": args.train_batch_size}
        wrong = [f"{name} is {found[name]}, not {value}" for name, value in asked.items() if found[name] != value]
        if given["train_dataloader"].dataset is not self._dataset:
            wrong.append("train_dataset is another one")
        if given["lr_scheduler"] is not self._scheduler:
            wrong.append("the scheduler of optimizers is another one")
        if wrong:
            raise KeepwarmError(
                f"the Trainer does not follow {self._attempt.label}: {'; '.join(wrong)}",
                "it would train on other samples, or at another learning rate, than the plan says",
                "TrainingArguments(..., **parts.arguments), or leave parts.callback out to do otherwise",
            )


def _refuse_unfit(attempt: Attempt) -> None:
    if attempt.batch_ramp is not None:
        raise KeepwarmError(
            f"{attempt.label}: its batch grows from {attempt.batch_ramp.start} to {attempt.global_batch_size} samples",
            "all steps of a Trainer have the same batch",
            "leave batch_ramp out of the plan, or train it by keepwarm run",
        )
    if attempt.steering is not None:
        raise KeepwarmError(
            f"{attempt.label}: its mix is steered while it trains ({attempt.steering.words()})",
            "the next mix follows from keepwarm's own evaluations, which a Trainer does not make",
            "take a rung whose mix is known before, such as replay, or train it by keepwarm run",
        )
    if attempt.stability != STANDARD:
        raise KeepwarmError(
            f"{attempt.label}: the plan says what is done when training becomes unstable (stability)",
            "a Trainer makes its update before anybody has looked at the loss",
            "leave stability out of the plan, or train it by keepwarm run",
        )


def _refuse_positions(model: nn.Module, attempt: Attempt) -> None:
    """A model with a table of positions must have one for the last token of a window, too."""
    config: Any = model.config
    positions, turned = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None)
    if turned is None and positions is not None and positions <= attempt.sequence_length:
        raise KeepwarmError(
            f"{type(model).__name__} has {positions} positions, and a sample for a Trainer "
            f"{attempt.sequence_length + 1} tokens",
            "its labels are shifted in the model, so that the last token of a window is an input as well",
            f"a plan with sequence_length: {positions - 1}, or train it by keepwarm run",
        )
