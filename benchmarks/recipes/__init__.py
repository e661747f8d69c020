"""Trained models behind docs/results: which runs there are, and what came of each."""
