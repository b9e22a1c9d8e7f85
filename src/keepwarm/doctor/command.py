"""Traps in the variables of a launch: what train_alcf.sh does not read, reads otherwise, or makes up by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from keepwarm.backends.megatron.emulated import DEFAULT_TRAIN_TOKENS
from keepwarm.doctor.alcf import (
    ARCHITECTURES,
    DEFAULT_TOKENIZER,
    FALLBACK,
    HELPERS,
    OF_LIBRARIES,
    SCRIPT,
    nearest,
    preset,
    variables,
)
from keepwarm.doctor.settings import Command
from keepwarm.doctor.trap import Sight, trap
from keepwarm.units import format_count

DRY_RUNS = "golden/launch/dry_runs.json"
_LEGACY = re.compile(r"ws[0-9]+_ds_stage[0-9]")  # how the older script named folders; it used Llama 2's tokenizer
_MOST_CUT = 0.01  # of the tokens that were asked for


@trap(
    "unread-variable",
    "command",
    "silent",
    seen="a variable that train_alcf.sh does not read",
    harm="the script keeps its own default, without a word",
    source=f"{DRY_RUNS}: cookbook_2nodes",
)
def unread_variable(command: Command) -> Iterator[Sight]:
    """Of what stands in front of the launch, everything; of what was exported before, what looks like one of the script's."""
    in_front = {one.name for one in command.launch.own}
    for one in command.variables.values():
        if one.name in variables() or one.name.startswith(OF_LIBRARIES) or one.name.upper() != one.name:
            continue
        near = nearest(one.name)
        if not near and one.name not in in_front:
            continue
        default = variables().get(near, "")
        instead = f"; {near} is read, and stays {default}" if near and default and not command.is_set(near) else ""
        yield Sight(
            command.where(one.name), f"{one.name} is not read by {HELPERS}{instead}",
            f"{near}={one.value}" if near else f"leave out {one.name}={one.value}",
        )  # fmt: skip


@trap(
    "not-exported",
    "command",
    "silent",
    seen="a variable set on a line of its own, without export",
    harm="bash train_alcf.sh is another process and does not see it",
    source=f"{HELPERS}, bash(1)",
)
def not_exported(command: Command) -> Iterator[Sight]:
    """A shell variable with the name of one of the script's, before a launch by `bash`."""
    for one in command.launch.unexported:
        if one.name in variables() and one.name not in command.variables:
            yield Sight(
                f"{one.place}: {one.name}={one.value}", f"{one.name} is set and not exported",
                f"export {one.name}={one.value}",
            )  # fmt: skip


@trap(
    "tokens-not-a-number",
    "command",
    "stops",
    seen="TRAIN_TOKENS that bash can't count with, such as 22e9",
    harm="bash stops the script with an arithmetic error",
    source=f"{DRY_RUNS}: tokens_sci",
)
def tokens_not_a_number(command: Command) -> Iterator[Sight]:
    """bash counts in whole numbers that are written out."""
    for name in ("TRAIN_TOKENS", "TRAIN_ITERS", "GLOBAL_BATCH", "GRAD_ACC_STEPS", "MICRO_BATCH"):
        text = command.get(name)
        if text and not text.isdigit():
            yield Sight(command.where(name), f"{text} is no whole number in digits", f"{name}={_digits(text)}")


def _digits(text: str) -> str:
    try:
        return str(int(float(text)))
    except (ValueError, OverflowError):
        return "22000000000"


@trap(
    "tokens-beat-iterations",
    "command",
    "silent",
    seen="TRAIN_TOKENS and TRAIN_ITERS together",
    harm="TRAIN_ITERS is ignored",
    source=f"{DRY_RUNS}: train_iters_and_tokens",
)
def tokens_beat_iterations(command: Command) -> Iterator[Sight]:
    """The script computes iterations from tokens wherever tokens are set."""
    for name in ("TRAIN_ITERS", "TRAIN_ITER"):
        if command.is_set("TRAIN_TOKENS") and command.is_set(name):
            used = f", {command.train_iterations:,} iterations are run" if command.train_iterations is not None else ""
            asked = command.variables[name].value
            if asked != str(command.train_iterations):
                yield Sight(
                    command.where(name), f"{name}={asked} is ignored{used}", f"leave out TRAIN_TOKENS, or {name}"
                )


@trap(
    "tokens-cut",
    "command",
    "silent",
    seen="TRAIN_TOKENS that whole iterations cut by more than 1 %, or to nothing",
    harm="TRAIN_ITERS is a division of whole numbers: fewer tokens are trained than asked for",
    source=f"{HELPERS}:773, {DRY_RUNS}: gas_default_32nodes",
)
def tokens_cut(command: Command) -> Iterator[Sight]:
    """What the division leaves over, where it is more than a rounding."""
    asked, iterations = command.train_tokens, command.train_iterations
    sequence, batch = command.number("SEQ"), command.global_batch
    if asked is None or iterations is None or not sequence or not batch or not command.is_set("TRAIN_TOKENS"):
        return
    one = sequence * batch
    if asked - iterations * one <= _MOST_CUT * asked:
        return
    harm = "TRAIN_ITERS is 0: the job starts, and trains nothing" if not iterations else ""
    yield Sight(
        command.where("TRAIN_TOKENS"),
        f"{asked:,} tokens are {asked / one:.2f} iterations of {one:,} tokens, {iterations:,} are run",
        f"TRAIN_TOKENS={(iterations + 1) * one}", harm,
    )  # fmt: skip


@trap(
    "no-length",
    "command",
    "silent",
    seen="neither TRAIN_TOKENS nor TRAIN_ITERS",
    harm="the script trains 4,673,780,159,710 tokens, and the learning rate decays over all of them",
    source=f"{DRY_RUNS}: nothing_set",
)
def no_length(command: Command) -> Iterator[Sight]:
    """The script has a default of its own."""
    if command.train_tokens == DEFAULT_TRAIN_TOKENS and not command.is_set("TRAIN_TOKENS"):
        count = f", {command.train_iterations:,} iterations" if command.train_iterations is not None else ""
        yield Sight(
            command.launch.place,
            f"neither is set: {format_count(DEFAULT_TRAIN_TOKENS)} tokens{count}",
            "TRAIN_TOKENS=22000000000",
        )


@trap(
    "global-batch",
    "command",
    "stops",
    seen="a GLOBAL_BATCH that world size, MICRO_BATCH and GRAD_ACC_STEPS do not make",
    harm="DeepSpeed's config then contradicts itself, and DeepSpeed stops",
    source=f"{DRY_RUNS}: global_batch_mismatch",
)
def global_batch(command: Command) -> Iterator[Sight]:
    """The script checks nothing."""
    if not command.is_set("GLOBAL_BATCH") or command.full_batch is None or command.global_batch == command.full_batch:
        return
    devices = f"{command.world_size} devices x {command.number('MICRO_BATCH')} x {command.accumulation} steps"
    parallel = f" / {command.tensor_parallel} tensor-parallel" if command.tensor_parallel > 1 else ""
    yield Sight(
        command.where("GLOBAL_BATCH"), f"{devices}{parallel} make {command.full_batch}, not {command.global_batch}",
        f"leave out GLOBAL_BATCH, or GLOBAL_BATCH={command.full_batch}",
    )  # fmt: skip


@trap(
    "batch-by-nodes",
    "command",
    "silent",
    seen="neither GRAD_ACC_STEPS nor GLOBAL_BATCH, on Aurora",
    harm="the script chooses by the number of nodes: with other nodes the batch is another, and LR's position moves",
    source=f"{DRY_RUNS}: gas_default_32nodes",
)
def batch_by_nodes(command: Command) -> Iterator[Sight]:
    """16 steps up to 15 nodes, then 8, 4, 2 and 1; its comment says otherwise at 32 and 128 nodes."""
    given = command.is_set("GRAD_ACC_STEPS") or command.is_set("GLOBAL_BATCH")
    if given or command.machine not in ("aurora", "sunspot") or command.accumulation is None:
        return
    batch = f", global batch {command.global_batch:,}" if command.global_batch else ""
    yield Sight(
        command.launch.place,
        f"GRAD_ACC_STEPS is not set: {command.accumulation} at {command.nodes} nodes{batch}",
        f"GRAD_ACC_STEPS={command.accumulation}",
    )


@trap(
    "unknown-architecture",
    "command",
    "silent",
    seen="a MODEL_ARCH that the script does not know",
    harm=f"{FALLBACK} is trained",
    source=f"{DRY_RUNS}: unknown_model_arch",
)
def unknown_architecture(command: Command) -> Iterator[Sight]:
    """Every other name falls through to the 7B."""
    name = command.get("MODEL_ARCH")
    if name and name not in ARCHITECTURES:
        yield Sight(
            command.where("MODEL_ARCH"), f"{name} is none of {', '.join(dict.fromkeys(ARCHITECTURES.values()))}",
            f"MODEL_ARCH={next((each for each in ARCHITECTURES if each.lower() in name.lower()), 'AuroraGPT-7B')}",
        )  # fmt: skip


@trap(
    "fixed-by-architecture",
    "command",
    "silent",
    seen="HEADS, HIDDEN, NLAYERS, SEQ .. beside an architecture that sets them",
    harm="the variable is ignored",
    source=f"{DRY_RUNS}: agpt2b",
)
def fixed_by_architecture(command: Command) -> Iterator[Sight]:
    """All presets but the 7B's set their sizes whatever the environment says."""
    sizes, free = preset(command.architecture)
    for name, size in sizes.items():
        given = command.get(name)
        if name not in free and given and given != str(size):
            yield Sight(
                command.where(name), f"{command.architecture} sets {name}={size}",
                f"leave out {name}, or MODEL_ARCH=7B with all sizes",
            )  # fmt: skip


@trap(
    "zero-stage-0",
    "command",
    "silent",
    seen="ZERO_STAGE=0",
    harm="the script prints `Please add the correct config set!!!` and goes on with a DeepSpeed config without a zero section",
    source=f"{DRY_RUNS}: zero0",
)
def zero_stage_0(command: Command) -> Iterator[Sight]:
    """No partition of the optimizer."""
    if command.get("ZERO_STAGE") == "0":
        yield Sight(command.where("ZERO_STAGE"), "no zero_optimization section is written", "ZERO_STAGE=1")


@trap(
    "deepspeed-optimizer",
    "command",
    "stops",
    seen="OPT=ds.adamw and the like without ADAM_BETA1, ADAM_BETA2 and ADAM_EPS",
    harm="the DeepSpeed config is no JSON, and jq stops the script",
    source=f"{DRY_RUNS}: ds_adamw",
)
def deepspeed_optimizer(command: Command) -> Iterator[Sight]:
    """The template reads variables that nothing sets."""
    lacking = [name for name in ("ADAM_BETA1", "ADAM_BETA2", "ADAM_EPS") if not command.is_set(name)]
    if command.get("OPT").startswith("ds.") and lacking:
        values = " ".join(f"{name}={variables()[name]}" for name in lacking)
        yield Sight(command.where("OPT"), f"{', '.join(lacking)} are empty in the config", values)


@trap(
    "no-list",
    "command",
    "silent",
    seen="no DATA_FILE_LIST",
    source=f"{DRY_RUNS}: data_list_default",
    harm="the script trains on ALCF/data-lists/MACHINE/dolma.txt",
)
def no_list(command: Command) -> Iterator[Sight]:
    """The script has a default of its own."""
    if not command.is_set("DATA_FILE_LIST"):
        yield Sight(
            command.launch.place, f"DATA_FILE_LIST is not set: ALCF/data-lists/{command.machine or 'MACHINE'}/dolma.txt",
            "DATA_FILE_LIST=path/to/list.txt",
        )  # fmt: skip


@trap(
    "list-missing",
    "command",
    "stops",
    seen="a DATA_FILE_LIST that is not there",
    source="train_alcf.sh with a missing list",
    harm="the script goes on to the trainer, which stops; the exit code is tee's 0",
)
def list_missing(command: Command) -> Iterator[Sight]:
    """Only where the folder can be looked into from here."""
    text = command.get("DATA_FILE_LIST")
    path = named_path(command, text) if text else None
    if path is not None and not path.exists():
        yield Sight(command.where("DATA_FILE_LIST"), f"{text}: no such file", f"ls {Path(text).parent}")


def within_reach(path: Path) -> bool:
    """True where a missing file says something: its folder, or the mount that an absolute path begins with, is here."""
    parts = path.absolute().parts
    return path.parent.is_dir() or (path.is_absolute() and len(parts) > 2 and Path(*parts[:2]).is_dir())


def named_path(command: Command, text: str) -> Path | None:
    """A path as the script sees it; None where the folder that it runs in is not this one, or the mount not on this machine."""
    path = command.folder / text
    if not path.is_absolute() and not (command.folder / SCRIPT).is_file() and not path.exists():
        return None
    return path if within_reach(path) else None


@trap(
    "tokenizer-of-another-age",
    "command",
    "silent",
    seen="a checkpoint of the older script with the newer script's tokenizer",
    harm="the token files' ids mean other words, or the embedding has other rows: the loss starts near that of random weights",
    source=f"{DRY_RUNS}: cookbook_fixed_LR_WARMUP_FRAC; golden/logs/log_samples.txt (loss 12.3)",
)
def tokenizer_of_another_age(command: Command) -> Iterator[Sight]:
    """The older script's folder names, and TOKENIZER_TYPE left at its default."""
    folder = Path(command.load).name
    if command.is_set("LOAD") and _LEGACY.match(folder) and not command.is_set("TOKENIZER_TYPE"):
        yield Sight(
            f"{command.variables['LOAD'].place}: LOAD=../{folder[:24]}..",
            f"the folder's name is the older script's, whose tokenizer is Llama 2's; the default is {DEFAULT_TOKENIZER}",
            "TOKENIZER_TYPE=Llama2Tokenizer TOKENIZER_MODEL=ALCF/tokenizer.model",
        )  # fmt: skip


@trap(
    "no-working-folder",
    "command",
    "lost",
    seen="PBS_O_WORKDIR not set, as everywhere but under PBS",
    harm="the script writes its records to /.cache and looks for its default list at /ALCF",
    source=f"{DRY_RUNS}: no_pbs_o_workdir",
)
def no_working_folder(command: Command) -> Iterator[Sight]:
    """Where all that the job has is known."""
    if command.complete and not command.is_set("PBS_O_WORKDIR"):
        folder = "$SLURM_SUBMIT_DIR" if command.machine == "perlmutter" else "$PWD"
        yield Sight(command.launch.place, "PBS_O_WORKDIR is not set", f"export PBS_O_WORKDIR={folder}")
