"""Compiled programs lie in the user's cache folder, unless JAX was told otherwise."""

import os

from mrt5_jax.cli.compilation_cache import keep_compiled_programs


def test_the_folder_is_the_user_s_and_jaxs_own_variable_comes_first(monkeypatch, tmp_path) -> None:
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
