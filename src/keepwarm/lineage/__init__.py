"""Where from: checkpoints with manifests, their graph, and the guards."""
