"""Compiled programs, kept on disk between runs."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from mrt5_jax.user_cache import cache_folder

MAX_BYTES = 4 << 30


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, in `user_cache.cache_folder`; call it before JAX is imported.

    JAX's own environment variables come first: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    for name, value in _wanted().items():
        os.environ.setdefault(name, value)


def keep_programs_from_now_on() -> None:
    """Does what `keep_compiled_programs` does, where JAX is imported already; what it has been told stays."""
    import jax

    config: Any = jax.config  # whose options pyright does not know
    if config.jax_compilation_cache_dir is None and config.jax_enable_compilation_cache:
        for name, value in _wanted().items():
            if name not in os.environ:
                config.update(name.lower(), value if name.endswith("DIR") else int(value))


def _wanted() -> dict[str, str]:
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder() / f"programs-{_processor()}"),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(MAX_BYTES),
        # JAX keeps only what takes a second to compile. A run has ten programs or so, and half of them take less.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _processor() -> str:
    """Tells apart processors that cannot run each other's programs, for home folders that machines share."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    features = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]
