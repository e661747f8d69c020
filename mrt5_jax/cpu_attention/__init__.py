"""Attention for CPUs, in C++: compiled where it runs, with what the processor has."""
