"""Compiled programs lie in the user's cache folder, unless JAX was told otherwise."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from mrt5_jax.compilation_cache import keep_compiled_programs, keep_programs_from_now_on


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """It is as it was afterwards: what is tried here sets variables, which later child processes would heed."""
    with mock.patch.dict(os.environ):
        yield


def test_the_folder_is_the_user_s_and_jaxs_own_variable_comes_first(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("MRT5_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "2")
    keep_compiled_programs()
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith(f"{tmp_path}/mrt5_jax/programs-")
    assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == "1"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "2"
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    keep_compiled_programs()
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0", "small programs are kept too"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


@pytest.mark.parametrize("named_by", ["MRT5_CACHE_DIR", "XDG_CACHE_HOME"])
def test_one_variable_moves_compiled_programs_and_unpacked_documents_alike(monkeypatch, tmp_path, named_by) -> None:
    """MRT5_CACHE_DIR goes before XDG_CACHE_HOME; nothing is left in the other."""
    from mrt5_jax.data.text_files import TextFile

    own, xdg = tmp_path / "own", tmp_path / "xdg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(xdg))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if named_by == "MRT5_CACHE_DIR":
        monkeypatch.setenv("MRT5_CACHE_DIR", str(own))
    else:
        monkeypatch.delenv("MRT5_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1")
    keep_compiled_programs()
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress(b"a line\n"))
    assert TextFile(text).length > 0
    expected, other = (own, xdg) if named_by == "MRT5_CACHE_DIR" else (xdg / "mrt5_jax", own)
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).parent == expected
    assert (expected / "files").is_dir()
    assert not other.exists()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("told", ["", "/elsewhere"])
def test_where_jax_is_imported_it_is_told_unless_it_was_before(told: str, monkeypatch, tmp_path) -> None:
    import jax

    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path))
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    try:
        jax.config.update("jax_compilation_cache_dir", told or None)
        keep_programs_from_now_on()
        folder = jax.config.jax_compilation_cache_dir
        assert folder == told if told else folder.startswith(f"{tmp_path}/programs-")
        assert told or jax.config.jax_persistent_cache_min_compile_time_secs == 0
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ, "child processes are not told"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
