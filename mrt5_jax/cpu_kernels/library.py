"""Compiles the kernels for this processor, once, and makes them known to JAX."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from importlib import resources
from pathlib import Path

import jax
from filelock import FileLock

from mrt5_jax.user_cache import cache_folder, processor

ATTENTION, ATTENTION_BACKWARD = "mrt5_attention", "mrt5_attention_backward"
PRODUCT = "mrt5_product"
GELU, GELU_BACKWARD = "mrt5_gated_gelu", "mrt5_gated_gelu_backward"
NORM, NORM_BACKWARD = "mrt5_rms_norm", "mrt5_rms_norm_backward"
_CALLS = (ATTENTION, ATTENTION_BACKWARD, PRODUCT, GELU, GELU_BACKWARD, NORM, NORM_BACKWARD)
"""Names of the custom calls, and of the library's symbols."""

_SOURCES = ("attention.cc", "product.cc", "elementwise.cc")
_HEADERS = ("vectors.h", "panels.h", "multiply.h", "threads.h", "biases.h")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-DNDEBUG", "-w")
_COMPILE_SECONDS = 300
_COMPILING = threading.Lock()


def alone_on_cpu() -> bool:
    """Whether JAX has one device, a CPU: the case for which the custom calls are meant."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


@functools.cache
def available() -> bool:
    """Whether the custom calls can be used here; compiles them if that has not happened yet (15 seconds).

    They need a C++ compiler: the one that the environment variable CXX names, or c++. Where they cannot be had, one
    line says so and XLA's own operations do.
    """
    try:
        with _COMPILING:  # programs are compiled in several threads
            _register(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = next((line for line in output if "error" in line), output[-1] if output else type(error).__name__)
        logging.getLogger("mrt5_jax").warning("the model runs slower than it could: %s", reason)
        return False
    return True


@functools.cache
def has_tiles() -> bool:
    """Whether the kernels are available and the processor multiplies tiles of bfloat16 (Intel AMX)."""
    if not available():
        return False
    answer = _register(_compiled()).mrt5_has_tiles
    answer.restype = ctypes.c_bool
    return answer()


@functools.cache
def _register(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in _CALLS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def _compiled() -> Path:
    """The library's file, compiled anew where source, compiler, processor or JAX differ."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler was found (install one, or set CXX)")
    include = jax.ffi.include_dir()
    folder = resources.files("mrt5_jax.cpu_kernels")
    texts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in _SOURCES + _HEADERS}
    key = hashlib.sha256(
        "\0".join([*texts.values(), *_FLAGS, compiler, include, jax.__version__]).encode()
    ).hexdigest()[:16]
    target = cache_folder() / f"kernels-{processor()}-{key}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                for name, text in texts.items():
                    (Path(scratch) / name).write_text(text, encoding="utf-8")
                new = Path(scratch) / target.name
                command = [compiler, *_FLAGS, f"-I{include}", *_SOURCES, "-o", str(new)]
                subprocess.run(
                    command, cwd=scratch, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS
                )
                new.replace(target)
    return target
