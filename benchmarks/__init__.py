"""What the project claims about speed and shuffling, measured: `python -m benchmarks.run`."""
