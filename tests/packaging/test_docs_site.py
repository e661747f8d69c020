"""The docs site builds strictly, loads nothing from a network, and its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("generate", "deletions", "export_hf", "evaluate", "RunConfig"):
        assert name in reference


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = _LOADED.findall(page.read_text(encoding="utf-8"))
        assert [address for address in found if "canonical" not in address] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_every_guide_is_in_the_site(repository: Path) -> None:
    named = (repository / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (repository / "docs").rglob("*.md"):
        assert f": {page.relative_to(repository / 'docs').as_posix()}" in named, page


def python_of(page: Path) -> str:
    """The Python of a page, in order."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/python.md", "docs/deletions.md"])
def test_the_python_of_a_page_runs(name: str, repository: Path, tmp_path: Path) -> None:
    code = python_of(repository / name)
    assert "mrt5_jax" in code
    script = code if "import mrt5_jax\n" in code else f"import mrt5_jax\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
