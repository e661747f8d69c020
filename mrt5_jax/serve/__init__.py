"""A model behind HTTP: a queue that batches, endpoints, limits, metrics, and a page to try it (docs/SERVING.md)."""
