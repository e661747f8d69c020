"""How attention, projections and norms are computed: one seam, and XLA's operations behind it."""
