"""Attention and bfloat16 products for CPUs, in C++: compiled where they run, with what the processor has."""
