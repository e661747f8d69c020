"""Training: state, sharding, optimizers, checkpoints, the step and the loop around it."""
