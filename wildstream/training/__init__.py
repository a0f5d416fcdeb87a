"""The trainer: losses, metrics, checkpoints, and the run that ties them together."""
