"""Studies that change the running model: ablation, patching, usage and pruning, by one sweep and its metrics."""
