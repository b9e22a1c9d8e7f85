"""What this machine can compute: a matrix product timed in fp32 and bf16, and what follows for precision and compiling.

bf16 multiplies much faster on some processors and slower on others, whatever their name, so it is measured. The speed
found is also the peak that model FLOP/s utilisation (MFU; Chowdhery et al. 2204.02311, appendix B) is a share of.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

BF16_PAYS = 1.5  # times the fp32 product: what a model gains is less, for not all of it is products
PROBE_SECONDS = 0.02  # a timing is at least as long, else the clock is what is measured
PROBE_TRIES = 3  # the best counts: another process's work makes a timing longer, nothing makes it shorter
# Compiling decoder blocks and the loss: what it costs once a process, and the share of eager time it saves. From
# benchmarks/training.py (docs/benchmarks.md); a GPU's are set with caution, not measured. It must save twice its cost,
# because neither is certain.
COMPILE_SECONDS = {"cpu": 20.0, "cuda": 90.0}
COMPILE_SAVES = {"cpu": {"fp32": 0.02, "bf16": 0.08}, "cuda": {"fp32": 0.10, "bf16": 0.25}}
EAGER_SHARE = {"fp32": 0.7, "bf16": 0.45}  # of the measured peak that an eager model reaches, to estimate its time
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Machine:
    """Matrix products of one process, FLOP/s by precision."""

    device: str
    threads: int
    peak: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self)


@functools.cache
def measure_machine(device: torch.device, threads: int) -> Machine:
    """Time matrix products with `threads`; once a process: a quarter of a second on a CPU."""
    torch.set_num_threads(threads)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    size = 8192 if cuda else 1024
    peak = {word: round(matmul_flops(device, dtype, size)) for word, dtype in DTYPES.items()}
    return Machine(name, threads, peak)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of the product of two square matrices of `size`: the best of a few timings.

    On a CPU they are of processor time, over all threads: what others do on the machine makes it no slower.
    """
    a, b = (torch.randn(size, size, generator=torch.Generator().manual_seed(k)).to(device, dtype) for k in (0, 1))
    best, repeats = 0.0, 1
    tries = 0
    while tries < PROBE_TRIES:
        began = _finished(device)
        for _ in range(repeats):
            torch.mm(a, b)
        seconds = _finished(device) - began
        if seconds < PROBE_SECONDS:
            repeats *= 2
            continue
        best, tries = max(best, 2 * size**3 * repeats / seconds), tries + 1
    return best


def _finished(device: torch.device) -> float:
    """The time at which all that was asked of the device is done, seconds."""
    if device.type != "cuda":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def keep_memory() -> None:
    """Let glibc keep the memory of large tensors instead of giving it back at each free: else every step faults the pages
    of its logits and activations in again, an eighth of its time on a CPU (docs/benchmarks.md)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def chosen_precision(asked: str, machine: Machine) -> tuple[str, str]:
    """fp32 or bf16, and why in words; `auto` takes bf16 where its product is BF16_PAYS times as fast."""
    if asked != "auto":
        return asked, "the plan says so"
    ratio = machine.peak["bf16"] / machine.peak["fp32"]
    words = (
        f"bf16 matrix products are {ratio:.1f} x as fast as fp32 on {machine.device}, it is taken from {BF16_PAYS} on"
    )
    return ("bf16" if ratio >= BF16_PAYS else "fp32"), words


def compiling_pays(asked: str, flops: float, machine: Machine, precision: str, processes: int, device: str) -> bool:
    """Whether decoder blocks are compiled: as asked, or where what `flops` of training would save pays it back twice."""
    if asked != "auto":
        return asked == "always"
    eager_seconds = flops / (EAGER_SHARE[precision] * machine.peak[precision] * processes)
    return eager_seconds * COMPILE_SAVES[device][precision] > 2 * COMPILE_SECONDS[device]


def flops_per_token(model: nn.Module, sequence_length: int) -> float:
    """FLOPs of training on one token, attention over a whole window included; on any device, the meta device too.

    6 N + 12 layers width S (2204.02311, appendix B): N are the weights of matrix products, so no look-up table but the
    head, and of a mixture of experts those that a token meets; width is heads x head_dim.
    """
    config: Any = model.config
    head = getattr(model.get_output_embeddings(), "weight", None)  # type: ignore[operator]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is not head}
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    met = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    weights = sum(
        p.numel() * (met if ".experts." in name else 1)
        for name, p in model.named_parameters()
        if p.ndim >= 2 and id(p) not in tables
    )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    return float(6 * weights + 12 * config.num_hidden_layers * width * sequence_length)


def memory_bytes(device: torch.device) -> int:
    """The most memory of the GPU, or what this process has resident now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
