"""Facts of train_alcf.sh and ALCF/helpers.sh (Megatron-DeepSpeed ffa3456d), as its recorded dry runs show them."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources

SCRIPT = "train_alcf.sh"
HELPERS = "ALCF/helpers.sh"
DEFAULT_TOKENIZER, DEFAULT_VOCABULARY = "google/gemma-7B", 256000
# Variables of libraries and machines: the script does not read them and its programs do.
OF_LIBRARIES = (
    "CCL_", "CUDA_", "DS_", "EZPZ_", "FI_", "HF_", "HUGGINGFACE_", "I_MPI_", "MPICH_", "MPIR_", "NCCL_", "OMP_", "PALS_", "PBS_",
    "PMI_", "PYTHON", "PYTORCH_", "SLURM_", "SYCL_", "TENSORBOARD_", "TOKENIZERS_", "TORCH", "TRITON_", "WANDB_", "XLA_", "ZES_",
    "ZE_", "MKL_", "KMP_", "LD_", "RANK", "MASTER_", "TMPDIR", "HOME", "CONDA_", "FORMAT_", "IPEX_", "NUMEXPR_",
)  # fmt: skip
# Valued flags that the script writes behind the command line's own: argparse takes the last. By the variable that sets them.
WRITTEN_LAST: Mapping[str, str] = {
    "--adam-beta1": "ADAM_BETA1", "--adam-beta2": "ADAM_BETA2", "--adam-eps": "ADAM_EPS", "--attention-dropout": "",
    "--clip-grad": "CLIP_GRAD", "--data-cache-path": "", "--data-file-list": "DATA_FILE_LIST",
    "--deepspeed_config": "", "--distributed-backend": "", "--ds-sequence-parallel-size": "SP",
    "--eval-interval": "EVAL_INTERVAL", "--eval-iters": "EVAL_ITERS", "--ffn-hidden-size": "FFN_HIDDEN_SIZE",
    "--global-batch-size": "GLOBAL_BATCH", "--hidden-dropout": "", "--hidden-size": "HIDDEN", "--init-method-std": "",
    "--load": "LOAD", "--log-interval": "LOG_INTERVAL", "--max-position-embeddings": "", "--micro-batch-size": "MICRO_BATCH",
    "--normalization": "", "--num-attention-heads": "HEADS", "--num-key-value-heads": "NUM_KV_HEAD",
    "--num-layers": "NLAYERS", "--optimizer": "OPT", "--pipeline-model-parallel-size": "PP",
    "--rotary-position-embeddings-theta": "ROPE_THETA", "--save": "SAVE", "--save-interval": "SAVE_INTERVAL",
    "--seq-length": "SEQ", "--split": "TRAIN_SPLIT, VAL_SPLIT and TEST_SPLIT",
    "--tensor-model-parallel-size": "TP", "--tensorboard-dir": "", "--timing-log-level": "TIMING_LOG_LEVEL",
    "--tokenizer-model": "TOKENIZER_MODEL", "--tokenizer-type": "TOKENIZER_TYPE", "--train-iters": "TRAIN_ITERS",
    "--weight-decay": "WEIGHT_DECAY", "--word-embedding-init-std": "", "--zero-stage": "ZERO_STAGE",
}  # fmt: skip
_7B = {"HEADS": 32, "NLAYERS": 32, "HIDDEN": 4096, "NUM_KV_HEAD": 8, "FFN_HIDDEN_SIZE": 11008, "SEQ": 4096}
_2B = {"HEADS": 16, "NLAYERS": 12, "HIDDEN": 2048, "NUM_KV_HEAD": 4, "FFN_HIDDEN_SIZE": 11008, "SEQ": 8192}
_PRESETS: Mapping[str, tuple[str, Mapping[str, int], tuple[str, ...]]] = {  # what the environment may still change
    "AuroraGPT-7B": ("7B AuroraGPT-7B aurora-gpt-7b llama-3.1-7B llama-3.1-7b llama-3.2-7B llama-3.2-7b", _7B, tuple(_7B)),
    "AuroraGPT-2B": (
        "2B AuroraGPT-2B AuroraGPT_2B Aurora-GPT-2B AuroraGPT2B Aurora_GPT_2B aurora-gpt-2b aurora_gpt_2b", _2B, (),
    ),
    "AuroraGPT-70B": (
        "70B", {"HEADS": 64, "NLAYERS": 80, "HIDDEN": 8192, "NUM_KV_HEAD": 8, "FFN_HIDDEN_SIZE": 28672, "SEQ": 8192}, (),
    ),
    "AuroraGPT-33B": (
        "33B llama-3.2-33B llama-3.2-33b", {
            "HEADS": 78, "NLAYERS": 78, "HIDDEN": 8268, "NUM_KV_HEAD": 6, "FFN_HIDDEN_SIZE": 11076, "SEQ": 4096,
            "TP": 6, "ZERO_STAGE": 2, "GRAD_ACC_STEPS": 1, "MICRO_BATCH": 1,
        }, (),
    ),
    "llama3-3B-nLayers28": (
        "llama3-3B llama-3B",
        {"HEADS": 24, "NLAYERS": 28, "HIDDEN": 3072, "NUM_KV_HEAD": 8, "FFN_HIDDEN_SIZE": 8192, "SEQ": 8192},
        ("NLAYERS",),
    ),
    "smollm3-nLayers24": (
        "smollm3-3B smollm3_3B",
        {"HEADS": 16, "NLAYERS": 24, "HIDDEN": 2048, "NUM_KV_HEAD": 4, "FFN_HIDDEN_SIZE": 11008, "SEQ": 8192},
        ("NLAYERS",),
    ),
    "phi4-mini-nLayers24": (
        "phi4-mini phi4_mini",
        {"HEADS": 32, "NLAYERS": 24, "HIDDEN": 3072, "NUM_KV_HEAD": 8, "FFN_HIDDEN_SIZE": 8192, "SEQ": 8192},
        ("NLAYERS",),
    ),
}  # fmt: skip
ARCHITECTURES = {word: name for name, (words, _, _) in _PRESETS.items() for word in words.split()}
FALLBACK = "AuroraGPT-7B"
OLDER_NAMES = {"HEADS": "NHEADS", "NLAYERS": "NUM_LAYERS"}  # what the script also reads for them


def preset(name: str) -> tuple[Mapping[str, int], tuple[str, ...]]:
    """The sizes that an architecture sets, and those of them that the environment changes."""
    _, sizes, free = _PRESETS[name]
    return sizes, free


@cache
def variables() -> Mapping[str, str]:
    """The variables that the script reads, with their defaults where those are plain values (else "")."""
    text = resources.files("keepwarm.doctor").joinpath("variables.csv").read_text(encoding="utf-8")
    return {row["name"]: row["default"] for row in csv.DictReader(text.splitlines())}


def nearest(name: str) -> str:
    """The variable that `name` looks like, or nothing."""
    known = [each for each in variables() if len(each) > 3]
    longer = [each for each in known if name.startswith(each) or each.startswith(name)]
    close = difflib.get_close_matches(name, known, 1, 0.8)
    return max(longer, key=len) if longer else close[0] if close else ""


def steps_on_aurora(nodes: int) -> int | None:
    """Gradient accumulation steps where GRAD_ACC_STEPS is not set; None at 128 nodes, where its code and comment differ."""
    if nodes == 128:
        return None
    return next((steps for fewest, steps in ((256, 1), (128, 2), (33, 4), (16, 8)) if nodes >= fewest), 16)
