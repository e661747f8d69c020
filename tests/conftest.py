"""What every test runs under: shapes checked at run time, JAX strict and on the CPU, nothing left to chance."""

import importlib.metadata
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported, by whomever
# Tests compile much and compute little: XLA's costly passes would take several times longer than they save, and so
# would its newer way to emit fusions, where there still is another.
_FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{_FAST_COMPILATION} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # else its first request asks the real hub about the terminal

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

import mrt5_jax.config  # noqa: F401

# From here on every annotated shape and type is checked when a function of mrt5_jax is called. The configuration's
# dataclasses have no shapes, and gin reads their signatures, which the checks would hide: they are imported before.
# The command line has no arrays, and walks configurations by small recursive functions, which checks slow down tenfold.
# The front door and the presets are given whatever users give, and say themselves what is wrong with it.
REPOSITORY = Path(__file__).resolve().parent.parent
_CHECKED = {f"mrt5_jax.{path.stem}" for path in (REPOSITORY / "mrt5_jax").glob("[!_]*")} - {
    "mrt5_jax.api",
    "mrt5_jax.cli",
    "mrt5_jax.presets",
}
_HOOK = jaxtyping.install_import_hook(sorted(_CHECKED), "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
# Programs are kept where a test says, and nowhere else: JAX looks through all that it keeps whenever it adds one.
jax.config.update("jax_compilation_cache_dir", "")

hypothesis.settings.register_profile("mrt5", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("mrt5")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Global generators start every test alike, so that no test depends on which ran before it."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests unpack and index is not kept in the user's cache."""
    os.environ["MRT5_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden models and real text beside the checkout; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs golden models and text in {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def compilations() -> Any:
    """`compaction.compilations`, for folders that are packages of their own and cannot import it from beside them."""
    from .compaction.compilations import compilations

    return compilations


@pytest.fixture(scope="session")
def bucket_servers() -> Iterator[dict[str, Any]]:
    """Storage servers on loopback by scheme, started when they are wanted."""
    pytest.importorskip("gcsfs", reason="needs the extras gcs, s3 and dev")
    pytest.importorskip("s3fs", reason="needs the extras gcs, s3 and dev")
    pytest.importorskip("gcp_storage_emulator", reason="needs the extra dev")
    pytest.importorskip("moto", reason="needs the extra dev")
    from .bucket_servers import GcsServer, S3Server

    servers = {server.scheme: server for server in (GcsServer(), S3Server())}
    for server in servers.values():
        server.start()
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(params=["gs", "s3"])
def bucket_server(request: pytest.FixtureRequest, bucket_servers: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A storage server, to which the clients in this process and in those that it starts are led."""
    server = bucket_servers[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server
