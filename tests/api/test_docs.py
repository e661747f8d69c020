"""What docs/python.md and the README show of Python runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

from .models import make_model


@pytest.mark.slow
def test_every_block_of_python_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one session; the models that it loads are a random one."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/vowels", "quickstart/mrt5"):
        make_model(Path(folder))
    for page in ("README.md", "docs/python.md"):
        blocks = re.findall(r"^```python\n(.*?)^```", (repository / page).read_text(encoding="utf-8"), re.M | re.S)
        assert blocks, page
        names: dict[str, Any] = {}
        for block in blocks:
            exec(block, names)
    for written in ("deletions.html", "runs/copy/model_config.json", "exported/config.json", "runs/tiny/metrics.jsonl"):
        assert (tmp_path / written).is_file(), written
