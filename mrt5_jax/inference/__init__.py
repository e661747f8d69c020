"""Scoring and generation with trained models, deletion included."""
