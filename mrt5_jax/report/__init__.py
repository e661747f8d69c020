"""One page of everything in some MODEL_DIRs; see docs/REPORT.md."""
