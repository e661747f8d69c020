"""The front door for Python: `load`, `Model`, `train` and `evaluate`; the command line is a thin layer over it."""
