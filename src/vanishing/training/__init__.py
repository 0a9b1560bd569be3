"""Networks, the training step and loop, devices, checkpoints, and the cost estimate."""
