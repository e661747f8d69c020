"""Which positions the rest of the model sees: selectors, and how a deletion follows from them."""
