"""MrT5 in JAX: a byte-level T5 that learns which bytes to delete, under static shapes."""

__version__ = "0.1.0"
