"""The cookbook's own launch command for a stage, and each thing in it that would not do what it seems to say.

What is said of it is read off the command line that train_alcf.sh makes of it (emulated.py), or was seen when the trainer
ran so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keepwarm.backends.megatron.emulated import Host, command_line
from keepwarm.backends.megatron.machines import Site
from keepwarm.plan.model import Plan, StageSpec

ARGUMENTS = ("--universal-checkpoint", "--finetune")
WARMUP = "0.01"  # the cookbook's 1 % of the tokens


@dataclass(frozen=True, slots=True)
class Trap:
    """What one part of the command does instead, how that is known, and what keepwarm launch says in its place."""

    part: str
    does: str
    evidence: str
    instead: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """The command as the cookbook types it, and its traps."""

    command: str
    environment: Mapping[str, str]  # as train_alcf.sh sees it
    arguments: tuple[str, ...]
    traps: tuple[Trap, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self) | {"environment": dict(self.environment)}


def verbatim_cookbook(plan: Plan, stage: StageSpec, site: Site, load: str) -> Verbatim:
    """The command for `stage` from the checkpoint in `load`."""
    plan = plan.of_stage(stage)
    accumulation = site.accumulation(plan.global_batch_size)
    lists = f"./ALCF/data-lists/{site.machine}/mix_{stage.new}_{plan.base.corpus}.txt"
    environment = {
        "DATA_FILE_LIST": lists, "LOAD": load, "TRAIN_TOKENS": str(stage.tokens), "GRAD_ACC_STEPS": str(accumulation),
        "LR": _decimal(plan.optimizer.lr_max), "LR_WARMUP_FRACTION": WARMUP,
    }  # fmt: skip
    typed = environment | {"TRAIN_TOKENS": _typed_tokens(stage.tokens)}
    command = " ".join([*(f"{name}={value}" for name, value in typed.items()), "bash train_alcf.sh", *ARGUMENTS])
    return Verbatim(command, environment, ARGUMENTS, tuple(_traps(plan, stage, site, environment)))


def flags_made(environment: Mapping[str, str], arguments: tuple[str, ...], site: Site) -> dict[str, str]:
    """The trainer's flags by name, the last of each: a switch is the empty text."""
    host = Host(site.host, site.spec.nodes, site.gpus_per_node)
    found: dict[str, str] = {}
    name = ""
    for word in command_line(environment, arguments, host, site.spec.trainer)[3:]:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        else:
            found[name] = word
    return found


def _traps(plan: Plan, stage: StageSpec, site: Site, environment: Mapping[str, str]) -> Iterator[Trap]:
    made = flags_made(environment, ARGUMENTS, site)
    yield from _rate_traps(made, plan)
    yield from _length_traps(made, plan, stage)
    yield from _identity_traps(made, plan, site)
    yield from _file_traps(made, site)


def _rate_traps(made: Mapping[str, str], plan: Plan) -> Iterator[Trap]:
    yield Trap(
        f"LR_WARMUP_FRACTION={WARMUP}", f"is not read: the warm-up is {made['--lr-warmup-fraction']} of the iterations",
        f"the command line has --lr-warmup-fraction {made['--lr-warmup-fraction']}",
        f"LR_WARMUP_FRAC={WARMUP}, or 0 where the trunk goes on",
    )  # fmt: skip
    yield Trap(
        " ".join(ARGUMENTS),
        "brings back Adam's moments, its step and, for the first step, the LR that the checkpoint was saved at: with a "
        "warm-up it is neither a clean continuation nor a clean restart",
        "a run so with --lr 0 changed the weights in its first step; one with a warm-up left the losses of a plain "
        "--finetune at iteration 2 (4.794993 v 4.798990)",
        "continue: no warm-up, LR at LR_max; restart: from a copy whose moments, step and LR are 0",
    )  # fmt: skip
    yield Trap(
        "LR_DECAY_STYLE is left out",
        f"is {made['--lr-decay-style']}: behind the warm-up LR falls over the whole stage, to "
        f"{made.get('--min-lr', '0.0')}, and no later stage starts from a checkpoint at peak",
        f"the command line has --lr-decay-style {made['--lr-decay-style']} and "
        + (f"--min-lr {made['--min-lr']}" if "--min-lr" in made else "no --min-lr, whose default is 0.0"),
        "LR_DECAY_STYLE=constant, --min-lr where LR falls",
    )  # fmt: skip


def _length_traps(made: Mapping[str, str], plan: Plan, stage: StageSpec) -> Iterator[Trap]:
    iterations, batch, length = (int(made[name]) for name in ("--train-iters", "--global-batch-size", "--seq-length"))
    fed = iterations * batch * length
    yield Trap(
        f"TRAIN_TOKENS={stage.tokens}",
        f"is divided without rounding up, and beats TRAIN_ITERS: {iterations:,} iterations, {stage.tokens - fed:,} tokens "
        "fewer than asked for" + ("; with none, the trainer ends at once" if not iterations else ""),
        f"the command line has --train-iters={iterations}, {batch} sequences of {length} each",
        f"TRAIN_ITERS={-(-stage.tokens // plan.step_tokens)}",
    )
    if batch != plan.global_batch_size or length != plan.sequence_length:
        yield Trap(
            "GLOBAL_BATCH and SEQ are left out",
            f"{batch} sequences of {length} tokens; the plan has {plan.global_batch_size} of {plan.sequence_length}",
            f"the command line has --global-batch-size={batch} --seq-length={length}",
            f"GLOBAL_BATCH={plan.global_batch_size} SEQ={plan.sequence_length}",
        )


def _identity_traps(made: Mapping[str, str], plan: Plan, site: Site) -> Iterator[Trap]:
    spec = site.spec
    tokenizer = f"{made['--tokenizer-type']} {made['--tokenizer-model']}"
    if tokenizer != f"{spec.tokenizer.type} {spec.tokenizer.model}":
        yield Trap(
            "TOKENIZER_TYPE and TOKENIZER_MODEL are left out",
            f"are {tokenizer}: another vocabulary, so that weights don't fit or ids mean other text",
            f"the command line has --tokenizer-type {made['--tokenizer-type']} --tokenizer-model {made['--tokenizer-model']}",
            f"TOKENIZER_TYPE={spec.tokenizer.type} TOKENIZER_MODEL={spec.tokenizer.model}",
        )
    if spec.architecture != "AuroraGPT-7B":
        yield Trap(
            "MODEL_ARCH is left out", "is the 7B", f"the command line has --num-layers={made['--num-layers']} "
            f"--hidden-size={made['--hidden-size']}", f"MODEL_ARCH={spec.architecture}",
        )  # fmt: skip


def _file_traps(made: Mapping[str, str], site: Site) -> Iterator[Trap]:
    name = Path(made["--save"]).name
    yield Trap(
        "SAVE is left out",
        "is a folder named after the number of processes, batch, LR and length: a job on other nodes, or with more tokens, "
        "does not find what was saved and starts from random weights, with exit status 0",
        f"the command line has --save={made['--save']}", "SAVE of the attempt, and LOAD=SAVE in every job but the first",
    )  # fmt: skip
    yield Trap(
        "DATA_FILE_LIST",
        "its index cache is keyed by the list's file name: with other weights inside a corpus the old order is reused, "
        "samples come from the wrong file or raise IndexError",
        f"the command line has --data-cache-path=.../{name[:24]}.../{'/'.join(Path(made['--data-cache-path']).parts[-3:])}",
        "CKPT_DIR named after the list's content",
    )  # fmt: skip
    yield Trap(
        "bash train_alcf.sh", "ends in a pipe: a launcher that fails gives exit status 0; nothing stops before the walltime",
        "a launcher that can't start was recorded with exit status 0; the command line has no --exit-duration-in-mins and "
        f"--save-interval={made['--save-interval']}",
        "a job that goes by what is saved, and submits itself again",
    )  # fmt: skip
    if site.scheduler == "slurm":
        yield Trap(
            "PBS_O_WORKDIR is not set under Slurm", "the script writes to /.cache", "it makes ${PBS_O_WORKDIR}/.cache",
            f"PBS_O_WORKDIR={site.spec.trainer}, HOSTFILE",
        )  # fmt: skip


def _typed_tokens(tokens: int) -> str:
    billions, rest = divmod(tokens, 10**9)
    return str(tokens) if rest else f"$(({billions}*10**9))"


def _decimal(lr: float) -> str:
    """As the cookbook writes it: 0.0002."""
    return f"{lr:.12f}".rstrip("0") if lr < 1 else repr(lr)
