"""Where what was compiled is kept between runs: in the user's cache folder, apart for processors that differ."""

import hashlib
import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """This project's folder below XDG_CACHE_HOME or ~/.cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrt5_jax"


def processor() -> str:
    """Tells apart processors that cannot run each other's programs, for home folders that machines share."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    features = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]
