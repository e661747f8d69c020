"""Runs that an earlier version began are loaded, evaluated and finished by this one with the same numbers."""

from pathlib import Path

import jax
import pytest

from .comparison import OURS, SLOTS, compare, witnesses

SHARED = ("hard", "imported", "packed_soft", "saturated_host", "vowels")


@pytest.fixture(autouse=True)
def _programs_are_kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Evaluation alone and evaluation at the end of training compile the same programs: once is enough."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("name", witnesses(OURS))
def test_the_present_code_agrees_with_its_witnesses(name: str, tmp_path: Path) -> None:
    comparison = compare(OURS, name, tmp_path)
    print(comparison.table())
    assert not comparison.beyond()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_the_present_code_agrees_with_the_shared_witnesses(name: str, shared: Path, tmp_path: Path) -> None:
    """But for slots: these runs have the default rungs, which were eight, and are those now that earn their program."""
    comparison = compare(shared / "golden" / "model_dirs", name, tmp_path)
    print(comparison.table())
    assert not comparison.beyond(but=SLOTS)
