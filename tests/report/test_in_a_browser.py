"""A report of three runs in a real browser: no complaints, nothing wider than a phone, all texts byte for byte.

MRT5_CHROMIUM names the browser; by default Chromium or Chrome is looked for on the PATH.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrt5_jax.report.contents import report_sections
from mrt5_jax.report.reading import read_run_results
from mrt5_jax.report.texts import TextsOfModel
from mrt5_jax.report.writing import REPORT_PAGE, write_report

from .made_runs import deletions_of, make_run

pytestmark = pytest.mark.slow

NUM_EXAMPLES = 5000
LARGEST = 5_000_000
MOST_SECONDS = 30
WIDTHS = (1280, 390)
TEXTS = {
    "en": b"An <b>ox</b> & a <script>document.title='run'</script> yak. " * 10,
    "ar": "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u202e. ".encode() * 10,
    "hi": "\u0915\u094d\u0937 \u0928\u092e\u0938\u094d\u0924\u0947 ".encode() * 10,
    "got": "\U00010330\U00010331 \U0001f469\u200d\U0001f4bb ".encode() * 10,
    "bytes": bytes(range(256)) * 2,
}
MEASURE = """<!doctype html><meta charset="utf-8"><iframe src="{page}" style="width:{width}px;height:900px"></iframe>
<pre></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument
  const texts = [...page.querySelectorAll("p.text")].map(text => [...text.querySelectorAll("[title]")].map(
    one => one.title.split(", ").map(byte => byte.match(/^[0-9A-F]{{2}} /) ? byte.slice(0, 2) : "").join("")).join(""))
  document.querySelector("pre").textContent = ["width", page.documentElement.scrollWidth, "title", page.title,
    "svgs", page.querySelectorAll("figure svg").length, "texts", ...texts].join(";")
}}
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    names = [os.environ["MRT5_CHROMIUM"]] if "MRT5_CHROMIUM" in os.environ else ["chromium", "chromium-browser"]
    found = next(filter(None, map(shutil.which, [*names, "google-chrome"])), None)
    if found is None:
        pytest.skip("needs Chromium on the PATH, or its path in MRT5_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Of three runs with 5,000 examples each.

    The time is the command's: in this process each call is checked for types, which takes longer than the report.
    """
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra report")
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / f"run{number}", NUM_EXAMPLES, steps=1000, seed=number)[0] for number in range(3)]
    command = [sys.executable, "-m", "mrt5_jax", "report", *map(str, runs), f"--out={folder / 'timed'}"]
    start = time.perf_counter()
    made = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert made.returncode == 0, made.stderr
    assert seconds <= MOST_SECONDS
    assert (folder / "timed" / REPORT_PAGE).stat().st_size <= LARGEST
    found = [read_run_results(str(run)) for run in runs]
    texts = {name: deletions_of(data, set(range(0, len(data), 3))) for name, data in TEXTS.items()}
    models = [TextsOfModel(run.name, 7, texts) for run in found]
    page = write_report(folder / "report", "Report of three runs", report_sections(found, models))
    assert Path(page).stat().st_size <= LARGEST
    return folder / "report"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_chromium(width: int, browser: str, report: Path, tmp_path: Path) -> None:
    """Measured from a page around it, since the report itself lets no script run."""
    outside = report / f"measure{width}.html"
    outside.write_text(MEASURE.format(page=REPORT_PAGE, width=width), encoding="utf-8")
    shown = run(browser, tmp_path, "--dump-dom", "--allow-file-access-from-files", outside.as_uri())
    found = re.search(r"<pre>(.*?)</pre>", shown.stdout, re.DOTALL)
    assert found, shown.stderr
    values = found[1].split(";")
    facts, texts = dict(zip(values[0:6:2], values[1:6:2], strict=True)), values[7:]
    assert int(facts["width"]) <= width
    assert facts["title"] == "Report of three runs"
    assert int(facts["svgs"]) > 5
    assert texts == [data.hex().upper() for data in TEXTS.values()] * 3
    picture = tmp_path / "page.png"
    size = (f"--window-size={width},4000", "--hide-scrollbars")
    seen = run(browser, tmp_path, *size, f"--screenshot={picture}", (report / REPORT_PAGE).as_uri())
    assert picture.stat().st_size > 10_000
    for output in (shown, seen):
        assert "CONSOLE" not in output.stderr


def run(browser: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=10000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
