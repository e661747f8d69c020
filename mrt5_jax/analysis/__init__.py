"""What a compiled program costs: multiply-adds, memory, cycles, collectives. Pure functions; no model runs here."""
