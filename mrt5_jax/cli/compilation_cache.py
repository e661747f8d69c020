"""Compiled programs, kept on disk between runs."""

import os

from mrt5_jax.user_cache import cache_folder, processor

MAX_BYTES = 4 << 30


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, in the user's cache folder; call it before JAX is imported.

    JAX's own environment variables come first: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / f"programs-{processor()}"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MAX_BYTES))
    # JAX keeps only what takes a second to compile. A run has ten programs or so, and half of them take less.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
