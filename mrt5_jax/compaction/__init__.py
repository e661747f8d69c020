"""Packs kept positions into short sequences of static lengths; pure JAX, knows no model."""
