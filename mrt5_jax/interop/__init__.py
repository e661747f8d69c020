"""Weights of other systems: Hugging Face folders in and out, T5X checkpoints in."""
