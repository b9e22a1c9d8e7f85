"""The trainer's command line as train_alcf.sh makes it, from the environment and what stands behind the script's name.

Recorded from the script itself (argonne-lcf/Megatron-DeepSpeed ffa3456d), which reads some variables and not others,
puts a person's own arguments before its own, where argparse lets the later win, and has a shell split the line again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from keepwarm.errors import PlanError

PYTHON, PROGRAM = "python3", "pretrain_gpt_alcf.py"
DEFAULT_TRAIN_TOKENS = 4_673_780_159_710
USE_CHECKPOINT = "--use-checkpoint-opt_param-scheduler"
# Every variable that is read and decides what is learned, or where it is read from and written to.
READ = frozenset({
    "ACT_CKPT_NUM_LAYERS", "ADAM_BETA1", "ADAM_BETA2", "ADAM_EPS", "CKPT_DIR", "CLIP_GRAD", "CPU_OPTIMIZER",
    "DATA_FILE_LIST", "DTYPE", "EVAL_INTERVAL", "EVAL_ITERS", "FFN_HIDDEN_SIZE", "GLOBAL_BATCH", "GRAD_ACC_STEPS",
    "HEADS", "HIDDEN", "HOSTFILE", "LAUNCH_WITH", "LOAD", "LOG_INTERVAL", "LR", "LR_DECAY_ITERS", "LR_DECAY_STYLE",
    "LR_WARMUP_FRAC", "MICRO_BATCH", "MODEL_ARCH", "NGPU_PER_HOST", "NLAYERS", "NO_FLASH_ATTN", "NO_LLAMA",
    "NO_TENSORBOARD", "NUM_KV_HEAD", "OPT", "OVERRIDE_CKPT_OPT_PARAM", "PBS_O_WORKDIR", "PP", "ROPE_THETA", "SAVE",
    "SAVE_INTERVAL", "SEQ", "SP", "TEST_SPLIT", "TIMING_LOG_LEVEL", "TOKENIZER_MODEL", "TOKENIZER_TYPE", "TP",
    "TRAIN_ITERS", "TRAIN_SPLIT", "TRAIN_TOKENS", "USE_ACTIVATION_CHECKPOINTING", "VAL_SPLIT", "WEIGHT_DECAY",
    "WORLD_SIZE", "ZERO_STAGE",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preset:
    """An architecture of MODEL_ARCH. `fixed`: the environment can't change its numbers."""

    fixed: bool
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    ffn_hidden_size: int
    sequence_length: int
    init_std: str


PRESETS: Mapping[str, Preset] = {  # those that were recorded
    "AuroraGPT-7B": Preset(False, 32, 4096, 32, 8, 11008, 4096, ".009848"),
    "AuroraGPT-2B": Preset(True, 12, 2048, 16, 4, 11008, 8192, ".013964"),
}


@dataclass(frozen=True, slots=True)
class Host:
    """Where the script runs: how its node is called, how many of them, and processes a node."""

    name: str
    nodes: int
    gpus_per_node: int

    @property
    def intel(self) -> bool:
        """Aurora and Sunspot: another communication backend and another flash attention."""
        return self.name.startswith(("x4", "x1", "aurora", "sunspot"))


def command_line(environment: Mapping[str, str], arguments: Sequence[str], host: Host, workdir: str) -> list[str]:
    """The launcher's words. PlanError where the script itself stops: bash can't count in `22e9`."""
    made = _Made(environment, host, workdir)
    return [
        "launch", PYTHON, f"{workdir}/{PROGRAM}", *made.scheduler(), *" ".join(arguments).split(), *made.model(),
        *made.tokenizer(), *made.tensorboard(), *made.deepspeed(), *made.rest(),
    ]  # fmt: skip


class _Made:
    """The variables with the script's defaults, and what follows from them."""

    def __init__(self, environment: Mapping[str, str], host: Host, workdir: str) -> None:
        self.given, self.host, self.workdir = environment, host, workdir
        named = environment.get("MODEL_ARCH") or "AuroraGPT-7B"
        self.arch = named if named.startswith("AuroraGPT-") else "AuroraGPT-7B"
        self.preset = PRESETS.get(self.arch)
        self.tensor = self.number("TP", 2 if host.name.startswith("nid") else 1)
        self.pipeline, self.sequence_parallel = self.number("PP", 1), self.number("SP", 1)
        self.accumulation = self.number("GRAD_ACC_STEPS", _accumulation(host))
        self.world = self.number("WORLD_SIZE", host.nodes * host.gpus_per_node)
        self.micro = self.number("MICRO_BATCH", 1)
        most = self.world * self.micro * self.accumulation // self.tensor // self.pipeline // self.sequence_parallel
        self.batch = self.number("GLOBAL_BATCH", most)
        self.seq = self.shape("SEQ", "sequence_length")
        self.tokens, self.iterations = self._length()
        self.checkpoints = self.value("CKPT_DIR", self._checkpoints())
        self.list = self.value("DATA_FILE_LIST", f"{workdir}/ALCF/data-lists/{_machine(host)}/dolma.txt")

    def value(self, name: str, default: str) -> str:
        return self.given.get(name) or default

    def number(self, name: str, default: int) -> int:
        text = self.value(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise PlanError(
                f"{name}={text}: bash can't count with it", "train_alcf.sh stops there", f"{name}={_digits(text)}"
            ) from None

    def shape(self, variable: str, attribute: str) -> int:
        """A number of the architecture; 0 of a preset that was not recorded."""
        preset = self.preset
        if preset is None:
            return self.number(variable, 0)
        known = int(getattr(preset, attribute))
        return known if preset.fixed else self.number(variable, known)

    def scheduler(self) -> Iterator[str]:
        if not self.given.get("OVERRIDE_CKPT_OPT_PARAM"):
            yield USE_CHECKPOINT
        yield from ("--lr", self.value("LR", "0.0002"), "--lr-decay-style", self.value("LR_DECAY_STYLE", "cosine"))
        yield from ("--lr-warmup-fraction", self.value("LR_WARMUP_FRAC", "0.05"))
        if self.given.get("LR_DECAY_ITERS"):
            yield from ("--lr-decay-iters", self.given["LR_DECAY_ITERS"])

    def model(self) -> Iterator[str]:
        if not self.given.get("NO_LLAMA"):
            kv_heads, ffn = self.shape("NUM_KV_HEAD", "kv_heads"), self.shape("FFN_HIDDEN_SIZE", "ffn_hidden_size")
            yield from ("--swiglu", "--hidden-dropout", "0", "--attention-dropout", "0", "--normalization", "rmsnorm")
            yield from ("--disable-bias-linear", "--no-query-key-layer-scaling", "--use-rotary-position-embeddings")
            yield from ("--untie-embeddings-and-output-weights", "--num-key-value-heads", str(kv_heads))
            yield from ("--ffn-hidden-size", str(ffn))
        if not self.given.get("NO_FLASH_ATTN"):
            yield "--use-flash-attn-builder" if self.host.intel else "--use-flash-attn-v2"

    def tokenizer(self) -> Iterator[str]:
        yield from ("--tokenizer-type", self.value("TOKENIZER_TYPE", "HFTokenizer"))
        yield from ("--tokenizer-model", self.value("TOKENIZER_MODEL", "google/gemma-7B"))

    def tensorboard(self) -> Iterator[str]:
        if not self.given.get("NO_TENSORBOARD"):
            yield from ("--log-timers-to-tensorboard", "--log-optimizer-states-to-tensorboard")
            yield from ("--tensorboard-dir", f"{self.checkpoints}/tensorboard")

    def deepspeed(self) -> Iterator[str]:
        stage = self.value("ZERO_STAGE", "1")
        name = f"ds_stage{stage}_mb{self.micro}_gb{self.batch}_pp{self.pipeline}_{self.value('DTYPE', self._dtype())}"
        recomputed = self.value("USE_ACTIVATION_CHECKPOINTING", "0") in ("1", "true")
        yield "--deepspeed"
        if self.pipeline == 1:
            yield "--no-pipeline-parallel"
        yield from (f"--deepspeed_config={self.workdir}/ds-configs/{name}.json", f"--zero-stage={stage}")
        if recomputed:
            yield from ("--deepspeed-activation-checkpointing", "--checkpoint-activations")
            yield f"--checkpoint-num-layers={self.value('ACT_CKPT_NUM_LAYERS', '1')}"

    def rest(self) -> Iterator[str]:
        v, shape = self.value, self.shape
        stem = PurePosixPath(self.list).name.replace(".txt", "")
        yield from (f"--{v('DTYPE', self._dtype())}", "--accumulate-allreduce-grads-in-fp32")
        yield from ("--adjust-word-embedding-init", f"--adam-beta1={v('ADAM_BETA1', '0.9')}")
        yield from (f"--adam-beta2={v('ADAM_BETA2', '0.95')}", f"--adam-eps={v('ADAM_EPS', '0.00001')}")
        yield from (f"--clip-grad={v('CLIP_GRAD', '1.0')}",)
        yield f"--data-cache-path={self.checkpoints}/.cache/{stem}/index-cache"
        yield from (f"--data-file-list={self.list}", f"--distributed-backend={'ccl' if self.host.intel else 'nccl'}")
        yield from (
            f"--ds-sequence-parallel-size={self.sequence_parallel}",
            f"--eval-interval={v('EVAL_INTERVAL', '100')}",
        )
        yield from (f"--eval-iters={v('EVAL_ITERS', '20')}", f"--global-batch-size={self.batch}")
        yield f"--hidden-size={shape('HIDDEN', 'hidden_size')}"
        yield f"--init-method-std={self.preset.init_std if self.preset else ''}"
        yield from (f"--log-interval={v('LOG_INTERVAL', '1')}", f"--load={v('LOAD', self.checkpoints)}")
        yield from (f"--max-position-embeddings={16 * self.seq}", f"--micro-batch-size={self.micro}")
        yield from ("--no-bias-gelu-fusion", "--no-bias-dropout-fusion", "--no-masked-softmax-fusion")
        yield from ("--no-gradient-accumulation-fusion", f"--num-layers={shape('NLAYERS', 'layers')}")
        yield from (f"--num-attention-heads={shape('HEADS', 'heads')}", f"--optimizer={v('OPT', 'adamw')}")
        yield f"--pipeline-model-parallel-size={self.pipeline}"
        yield f"--rotary-position-embeddings-theta={v('ROPE_THETA', '50000')}"
        yield from (f"--save={v('SAVE', self.checkpoints)}", f"--seq-length={self.seq}")
        yield f"--split={v('TRAIN_SPLIT', '990')},{v('VAL_SPLIT', '10')},{v('TEST_SPLIT', '0')}"
        yield from ("--shuffle-sample-in-corpus", f"--save-interval={v('SAVE_INTERVAL', '50')}")
        yield from (f"--train-iters={self.iterations}", f"--tensor-model-parallel-size={self.tensor}")
        yield f"--timing-log-level={v('TIMING_LOG_LEVEL', '1')}"
        yield from (f"--weight-decay={v('WEIGHT_DECAY', '0.1')}", "--word-embedding-init-std=0.632455532")

    def _length(self) -> tuple[int, int]:
        """(tokens, iterations): tokens beat iterations, and are divided without rounding up."""
        if self.given.get("TRAIN_TOKENS") or not self.given.get("TRAIN_ITERS"):
            tokens = self.number("TRAIN_TOKENS", DEFAULT_TRAIN_TOKENS)
            return tokens, tokens // self.seq // self.batch
        return 0, self.number("TRAIN_ITERS", 0)

    def _dtype(self) -> str:
        return "fp16" if _machine(self.host) in ("polaris", "sirius") else "bf16"

    def _checkpoints(self) -> str:
        """The folder that is taken where none is named: another one for another number of nodes, batch, rate or length."""
        v, kind = self.value, self.given.get("TOKENIZER_TYPE", "").replace("Tokenizer", "")
        tokenizer = f"_tok{kind}" if kind else ""
        tokenizer += (
            f"_tm{self.given['TOKENIZER_MODEL'].replace('/', '_')}" if self.given.get("TOKENIZER_MODEL") else ""
        )
        return (
            f"checkpoints/{self.arch}-ws{self.world}-ds-stage{v('ZERO_STAGE', '1')}-nl{self.shape('NLAYERS', 'layers')}"
            f"-hs{self.shape('HIDDEN', 'hidden_size')}-mb{self.micro}-seq{self.seq}-gb{self.batch}"
            f"-sp{self.sequence_parallel}-pp{self.pipeline}-tp{self.tensor}-{v('DTYPE', self._dtype())}"
            f"-opt{v('OPT', 'adamw')}-lr{v('LR', '0.0002')}-lwf{v('LR_WARMUP_FRAC', '0.05')}"
            f"_ntok{self.tokens // 10**9}B{tokenizer}{'' if self.given.get('NO_FLASH_ATTN') else '_flash'}"
        )


def _accumulation(host: Host) -> int:
    """GRAD_ACC_STEPS where it is not given: on Aurora by the number of nodes, as far as it was recorded."""
    if host.intel:
        return 8 if host.nodes >= 16 else 16
    return 8


def _machine(host: Host) -> str:
    hosts = {"x4": "aurora", "x1": "sunspot", "x3": "polaris", "nid": "perlmutter"}
    return next((name for begin, name in hosts.items() if host.name.startswith(begin)), host.name)


def _digits(text: str) -> str:
    try:
        return str(int(float(text)))
    except ValueError:
        return "1000"
