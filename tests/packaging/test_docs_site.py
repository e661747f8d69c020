"""The docs site builds strictly, holds every page, and loads nothing from a network."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mrt5_jax

_ELEMENT = re.compile(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>")
_ELSEWHERE = re.compile(r"""\b(?:src|srcset|href|data)\s*=\s*["']?\s*(?:https?:)?//""")
_IN_STYLE = re.compile(r"""url\(\s*['"]?(?:https?:)?//|@import""")


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings_handlers"))):
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(repository: Path) -> list[str]:
    """Paths of all pages, below docs/."""
    docs = repository / "docs"
    return sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


def test_every_page_is_in_the_navigation(repository: Path) -> None:
    """And the navigation names no other."""
    configuration = (repository / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = configuration[configuration.index("\nnav:\n") : configuration.index("\nplugins:\n")]
    assert sorted(re.findall(r": (\S+\.md)$", navigation, re.M)) == pages(repository)


def test_every_link_between_pages_leads_somewhere(repository: Path) -> None:
    """To a file below docs/: others are not in the site. Of links with an anchor the build tells."""
    found = 0
    for page in pages(repository):
        path = repository / "docs" / page
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text):
            linked = (path.parent / target).resolve()
            assert linked.is_file(), (page, target)
            assert linked.is_relative_to(repository / "docs"), (page, target)
            found += 1
    assert found > 50


def test_every_name_of_the_reference_is_in_its_module(repository: Path) -> None:
    """What `:::` names in docs/reference.md."""
    names = re.findall(r"^::: (\S+)$", (repository / "docs/reference.md").read_text(encoding="utf-8"), re.M)
    assert len(names) > 20
    shown = {part for name in names for part in name.split(".")}
    assert set(mrt5_jax.__all__) - shown == {"__version__", "UserError"}, "errors are shown as a module"
    for name in names:
        module, _, last = name.rpartition(".")
        file = repository / (name.replace(".", "/") + ".py")
        if not file.is_file():
            text = (repository / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
            assert re.search(rf"^(?:class|def) {last}\b", text, re.M), name


def test_the_site_has_every_page_and_the_reference(site: Path, repository: Path) -> None:
    for page in pages(repository):
        assert (site / page).with_suffix(".html").is_file(), page
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("load", "Model.generate", "Model.deletions", "Deletions.write_page", "RunConfig", "UserError"):
        assert re.search(rf'id="mrt5_jax\.[\w.]*{re.escape(name)}"', reference), name


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    """Links to elsewhere there are; but no page asks for anything by itself."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert [element for element in _ELEMENT.findall(text) if _ELSEWHERE.search(element)] == [], page
        assert not any(map(_IN_STYLE.search, re.findall(r"<style.*?</style>", text, re.S))), page
    for sheet in site.rglob("*.css"):
        assert not _IN_STYLE.search(sheet.read_text(encoding="utf-8")), sheet
