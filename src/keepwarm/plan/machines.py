"""The clusters that Megatron-DeepSpeed's launcher knows by their hosts' names, as its own scripts describe them.

Queues are only given where the lab's scripts name one for production; everything may be said otherwise in the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scheduler = Literal["pbs", "slurm", "none"]
MachineName = Literal["aurora", "polaris", "sunspot", "sirius", "sophia", "perlmutter", "none"]
Dtype = Literal["bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan need not say. `host` is how its compute nodes' names begin, by which the launcher tells it."""

    scheduler: Scheduler
    gpus_per_node: int | None
    queue: str | None = None
    filesystems: str | None = None
    constraint: str | None = None
    dtype: Dtype = "bf16"
    tensor_parallel: int = 1
    host: str = ""


MACHINES: Mapping[str, Machine] = {
    "aurora": Machine("pbs", 12, "prod", "flare:home", host="x4"),
    "polaris": Machine("pbs", 4, "prod", "eagle:home", dtype="fp16", host="x3"),
    "sunspot": Machine("pbs", 12, host="x1"),
    "sirius": Machine("pbs", 4, dtype="fp16", host="x3"),
    "sophia": Machine("pbs", 8, filesystems="eagle:home", host="sophia"),
    "perlmutter": Machine("slurm", 4, "regular", constraint="gpu&hbm80g", tensor_parallel=2, host="nid"),
    "none": Machine("none", None),
}
