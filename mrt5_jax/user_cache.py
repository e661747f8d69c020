"""Names the folder of everything that is kept between runs: compiled programs, unpacked documents."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$MRT5_CACHE_DIR or, without it, mrt5_jax in XDG_CACHE_HOME or ~/.cache; the folder need not exist."""
    if own := os.environ.get("MRT5_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrt5_jax"
