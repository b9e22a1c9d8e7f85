"""Megatron-DeepSpeed under PBS or Slurm: what is launched there, and what its logs and checkpoints say."""
