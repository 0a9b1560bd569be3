"""Networks, the training step and loop, devices, checkpoints, and what a training costs."""
