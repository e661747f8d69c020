"""The page in a real browser: type, see what is deleted, move the threshold, let the model write."""

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from ..cli.small_run import make_model_dir
from .browser import Tab, opened
from .child import served

pytestmark = pytest.mark.slow

TYPED = "<b>é&x\u05d2"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Showing the page of a model for inputs of twelve ids."""
    folder = tmp_path_factory.mktemp("page")
    model_dir = make_model_dir(folder / "model")
    with served(model_dir, "--batch_size=1", "--max_rungs=1") as server, opened(folder / "browser") as tab:
        tab.call("Page.navigate", url=f"http://{server.address}/")
        tab.wait("document.getElementById('gate')?.hidden === false")
        yield tab


def type_text(tab: Tab, text: str) -> None:
    """As a keyboard would."""
    tab.run("document.getElementById('input').value = ''; document.getElementById('input').focus()")
    tab.call("Input.insertText", text=text)
    tab.wait(f"document.getElementById('deleted').innerText.includes({json.dumps(text)})")


def move_to(tab: Tab, end: str) -> int:
    """Moves the threshold to one of its ends; returns how many ids are kept."""
    tab.run(
        f"(slider => {{ slider.value = slider.{end}; slider.dispatchEvent(new Event('input')) }})"
        "(document.getElementById('threshold'))"
    )
    return int(tab.run("document.getElementById('counts').textContent").split()[0])


def test_what_is_typed_is_shown_and_never_taken_for_html(tab: Tab) -> None:
    type_text(tab, TYPED)
    shown = tab.run("[...document.querySelectorAll('#deleted .text > *')].map(one => one.textContent).join('')")
    assert shown == f"{TYPED}</s>"
    assert tab.run("document.querySelectorAll('#deleted b').length") == 0
    assert tab.errors == []


def test_the_threshold_moves_what_is_kept(tab: Tab) -> None:
    type_text(tab, TYPED)
    ids = len(TYPED.encode()) + 1
    assert move_to(tab, "min") == ids
    assert 1 <= move_to(tab, "max") < ids
    assert tab.run("document.querySelectorAll('#deleted del').length") > 0
    assert tab.run("document.getElementById('own').hidden") is False
    tab.run("document.getElementById('own').click()")
    assert tab.run("document.getElementById('own').hidden") is True
    assert tab.errors == []


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_model_writes_at_the_threshold_that_is_chosen(tab: Tab, end: str) -> None:
    type_text(tab, TYPED)
    kept = move_to(tab, end)
    tab.run("document.getElementById('timing').textContent = ''; document.getElementById('generate').click()")
    tab.wait("document.getElementById('timing').textContent !== ''")
    said = tab.run("document.getElementById('timing').textContent")
    assert f"{kept} of {len(TYPED.encode()) + 1} ids kept" in said
    assert tab.errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_as_wide_as_the_window(tab: Tab, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    type_text(tab, "x" * 11)
    assert tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.errors == []
