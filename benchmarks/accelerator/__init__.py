"""What one accelerator makes of this project: `python -m benchmarks.accelerator`; docs/ACCELERATORS.md explains it."""
