"""What train_alcf.sh makes of a launch: its defaults, its arithmetic, and the words that reach the trainer.

Held against the argv of every recorded dry run. A value that the machine alone knows is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from keepwarm.backends.megatron.emulated import DEFAULT_TRAIN_TOKENS
from keepwarm.doctor.alcf import ARCHITECTURES, FALLBACK, OLDER_NAMES, preset, steps_on_aurora, variables
from keepwarm.doctor.shell import Assignment, Launch
from keepwarm.plan.machines import MACHINES, Machine

_EIGHT_STEPS = ("polaris", "sirius", "sophia")


@dataclass(frozen=True, eq=False)
class Command:
    """A launch and where it runs. `present` says whether LOAD will be there: keepwarm makes it before the first job."""

    launch: Launch
    environment: Mapping[str, str]
    machine: str = ""  # aurora, polaris ..; "" not known
    nodes: int | None = None
    complete: bool = False  # `environment` is all that the job has, so what is not in it is not set
    prepared: bool = False  # LOAD is made before the first job
    folder: Path = Path()  # that the launch stands in

    @cached_property
    def variables(self) -> Mapping[str, Assignment]:
        """What the script sees, by name."""
        return {one.name: one for one in (*self.launch.exported, *self.launch.own)}

    def get(self, name: str) -> str:
        """A variable's value; the older name's where only that is set; "" where it is not set or not known."""
        for each in (name, OLDER_NAMES.get(name, name)):
            one = self.variables.get(each)
            if one is not None and one.value and one.known:
                return one.value
        return ""

    def is_set(self, name: str) -> bool:
        """True if the variable has a value, known here or not."""
        return name in self.variables and bool(self.variables[name].value)

    def where(self, name: str) -> str:
        """How a variable's place is named."""
        one = self.variables[name]
        return f"{one.place}: {name}={one.value}"

    def number(self, name: str) -> int | None:
        """A whole number as bash reads it: the variable's, the architecture's, or the script's default."""
        sizes, free = preset(self.architecture)
        if name in sizes and name not in free:
            return sizes[name]
        text = self.get(name) or ("" if self.is_set(name) else str(sizes.get(name, variables().get(name, ""))))
        return int(text) if text.isdigit() else None

    @cached_property
    def architecture(self) -> str:
        """The preset that is taken."""
        return ARCHITECTURES.get(self.get("MODEL_ARCH") or "7B", FALLBACK)

    @cached_property
    def tensor_parallel(self) -> int:
        """TP."""
        return self.number("TP") or self._site.tensor_parallel

    @property
    def _site(self) -> Machine:
        """The machine's defaults; those of no machine where it is not known."""
        return next((each for name, each in MACHINES.items() if name == self.machine), MACHINES["none"])

    @cached_property
    def world_size(self) -> int | None:
        """Devices, if the environment or the job's header says it."""
        if (given := self.number("WORLD_SIZE")) is not None:
            return given
        per_node = self.number("NGPU_PER_HOST") or self._site.gpus_per_node
        return self.nodes * per_node if self.nodes and per_node else None

    @cached_property
    def accumulation(self) -> int | None:
        """Gradient accumulation steps."""
        if self.is_set("GRAD_ACC_STEPS") or "GRAD_ACC_STEPS" in preset(self.architecture)[0]:
            return self.number("GRAD_ACC_STEPS")
        if self.machine in ("aurora", "sunspot"):
            return steps_on_aurora(self.nodes) if self.nodes else None
        return 8 if self.machine in _EIGHT_STEPS else 1 if self.machine else None

    @cached_property
    def full_batch(self) -> int | None:
        """What world, micro-batch and accumulation make: GLOBAL_BATCH_MAX."""
        micro, world, steps = self.number("MICRO_BATCH"), self.world_size, self.accumulation
        if micro is None or world is None or steps is None:
            return None
        return world * micro * steps // self.tensor_parallel // (self.number("PP") or 1) // (self.number("SP") or 1)

    @cached_property
    def global_batch(self) -> int | None:
        """GLOBAL_BATCH."""
        return self.number("GLOBAL_BATCH") if self.is_set("GLOBAL_BATCH") else self.full_batch

    @cached_property
    def train_tokens(self) -> int | None:
        """TRAIN_TOKENS as it is used; None where iterations are given, or it is no number."""
        if self.is_set("TRAIN_TOKENS"):
            return self.number("TRAIN_TOKENS")
        return None if self.is_set("TRAIN_ITERS") or self.is_set("TRAIN_ITER") else DEFAULT_TRAIN_TOKENS

    @cached_property
    def train_iterations(self) -> int | None:
        """TRAIN_ITERS as the script computes it."""
        if self.train_tokens is None:
            return self.number("TRAIN_ITERS" if self.is_set("TRAIN_ITERS") else "TRAIN_ITER")
        sequence, batch = self.number("SEQ"), self.global_batch
        return self.train_tokens // sequence // batch if sequence and batch else None

    @cached_property
    def default_folder(self) -> str:
        """CKPT_DIR where it is not set: the name encodes what the launch was; "?" for what is not known here."""
        if self.is_set("CKPT_DIR"):
            return self.get("CKPT_DIR") or "$CKPT_DIR"

        def text(value: object) -> str:
            return "?" if value is None or value == "" else str(value)

        number = self.number
        optimizer = self.get("OPT") or self.get("OPTIMIZER") or self.get("OPTIM") or "adamw"
        dtype = self.get("DTYPE") or self._site.dtype
        name = (
            f"{self.architecture}-ws{text(self.world_size)}-ds-stage{text(number('ZERO_STAGE'))}-nl{text(number('NLAYERS'))}"
            f"-hs{text(number('HIDDEN'))}-mb{text(number('MICRO_BATCH'))}-seq{text(number('SEQ'))}-gb{text(self.global_batch)}"
            f"-sp{number('SP') or 1}-pp{number('PP') or 1}-tp{self.tensor_parallel}-{dtype}-opt{optimizer}"
            f"-lr{self.rate('LR')}-lwf{self.rate('LR_WARMUP_FRAC')}_ntok{(self.train_tokens or 0) // 10**9}B"
        )
        if self.is_set("TOKENIZER_TYPE"):
            name += f"_tok{self.get('TOKENIZER_TYPE').replace('Tokenizer', '')}"
        if self.is_set("TOKENIZER_MODEL"):
            name += f"_tm{self.get('TOKENIZER_MODEL').replace('/', '_')}"
        if self.is_set("LR_DECAY_ITERS"):
            name += f"_ldi{self.get('LR_DECAY_ITERS')}"
        return f"checkpoints/{name}" + ("" if self.is_set("NO_FLASH_ATTN") else "_flash")

    def rate(self, name: str) -> str:
        """A rate's text: the variable's, or the script's default."""
        return self.get(name) or ("$" + name if self.is_set(name) else variables()[name])

    @property
    def load(self) -> str:
        """What --load is; "" where it is set and not known here."""
        return self.get("LOAD") if self.is_set("LOAD") else self.default_folder

    @property
    def save(self) -> str:
        """What --save is; "" where it is set and not known here."""
        return self.get("SAVE") if self.is_set("SAVE") else self.default_folder

    @cached_property
    def uses_checkpoint_scheduler(self) -> bool:
        """True if --use-checkpoint-opt_param-scheduler is passed."""
        return not self.is_set("OVERRIDE_CKPT_OPT_PARAM") or self.has("--use-checkpoint-opt_param-scheduler")

    def has(self, flag: str) -> bool:
        """True if the command line has the flag."""
        return any(word.partition("=")[0] == flag for word in self.launch.arguments)

    @property
    def resumes(self) -> bool:
        """The position and the scheduler of LOAD's checkpoint are taken."""
        return self.is_set("LOAD") and not self.has("--finetune")

    def words(self, global_batch: int, iterations: int) -> list[str]:
        """What the trainer's parser reads of it, in order, as far as the learning rate is concerned."""
        decay = self.get("LR_DECAY_ITERS")
        return [
            *(["--use-checkpoint-opt_param-scheduler"] if not self.is_set("OVERRIDE_CKPT_OPT_PARAM") else []),
            *("--lr", self.rate("LR"), "--lr-decay-style", self.get("LR_DECAY_STYLE") or "cosine"),
            *("--lr-warmup-fraction", self.rate("LR_WARMUP_FRAC")),
            *(["--lr-decay-iters", decay] if decay else []),
            *self.launch.arguments,
            *(
                f"--global-batch-size={global_batch}",
                f"--load={self.load or '$LOAD'}",
                f"--seq-length={self.number('SEQ')}",
            ),
            *(f"--train-iters={iterations}", f"--weight-decay={self.rate('WEIGHT_DECAY')}"),
        ]
