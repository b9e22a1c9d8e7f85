"""keepwarm: continual pre-training that plans, mixes, trains, judges, and shows why."""

__version__ = "0.1.0"
