"""ByT5 and MrT5 as Flax Linen modules, and the functions from tokens to logits."""
