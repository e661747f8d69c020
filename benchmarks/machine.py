"""What a benchmark ran on: processor, instruction sets, libraries."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import NamedTuple

import jax

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Those that matrix products use where a processor has them."""

LIBRARIES = ("jax", "jaxlib", "torch", "transformers")


class Machine(NamedTuple):
    processor: str
    """Name, vendor, family and model: clouds give many processors one name."""
    cores: int
    instruction_sets: tuple[str, ...]
    devices: str
    versions: str

    def __str__(self) -> str:
        found = ", ".join(self.instruction_sets) or f"none of {', '.join(INSTRUCTION_SETS)}"
        return f"{self.processor}, {self.cores} cores, {found}; {self.devices}; {self.versions}"


def this_machine() -> Machine:
    facts = _cpuinfo()
    numbers = ", ".join(f"{name} {facts[name]}" for name in ("vendor_id", "cpu family", "model") if name in facts)
    name = facts.get("model name", platform.processor() or platform.machine())
    flags = facts.get("flags", facts.get("Features", "")).split()
    devices = jax.devices()
    return Machine(
        f"{name} ({numbers or platform.machine()})",
        os.cpu_count() or 1,
        tuple(name for name in INSTRUCTION_SETS if name in flags),
        f"{len(devices)} x {devices[0].device_kind}",
        ", ".join(f"{name} {version}" for name in LIBRARIES if (version := _version(name))),
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
