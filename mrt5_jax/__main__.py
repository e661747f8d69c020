"""`python -m mrt5_jax ...` is `mrt5 ...`."""

from mrt5_jax.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
