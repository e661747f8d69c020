"""Answers that are written to a bucket: in parts that a stopped run goes on with, and one object at the end."""

from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.inference.parts import Parts
from mrt5_jax.inference.resumable import resume_lines
from mrt5_jax.runs.bucket_lock import HEARTBEAT
from mrt5_jax.runs.files import as_path, files_for, read_bytes

SETTINGS = {"mode": "predict"}


@pytest.fixture
def output(bucket_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(HEARTBEAT, "0.1")
    return as_path(bucket_server.url(f"{tmp_path.name}/out.jsonl"))


class KilledError(Exception):
    pass


def killed_run(output: Any) -> None:
    """Two parts are written, and a third is not."""
    with resume_lines(output, SETTINGS) as lines:
        assert isinstance(lines, Parts)
        for part in (["one", "two"], ["three"]):
            lines.append(part)
            lines.flush()
        lines.append(["lost"])
        raise KilledError


def names(output: Any) -> list[str]:
    return [name for name in files_for(output).below(output.parent) if ".lock" not in name]


def test_what_a_stopped_run_has_written_is_gone_on_with(output: Any) -> None:
    with pytest.raises(KilledError):
        killed_run(output)
    assert names(output) == [
        *("out.jsonl.parts/000000000000.jsonl", "out.jsonl.parts/000000000002.jsonl", "out.jsonl.parts/manifest.json"),
        "out.jsonl.settings.json",
    ]
    with resume_lines(output, SETTINGS) as lines:
        assert lines.num_lines == 3
        lines.append(["four"])
    assert read_bytes(output) == b"one\ntwo\nthree\nfour\n"
    assert names(output) == ["out.jsonl", "out.jsonl.settings.json"]
    with resume_lines(output, SETTINGS) as lines:
        assert lines.num_lines == 4
    assert read_bytes(output) == b"one\ntwo\nthree\nfour\n"


def test_lines_are_not_repeated_where_a_run_was_stopped_while_it_put_the_parts_together(
    output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("mrt5_jax.inference.parts.folders.remove", kill)
        with pytest.raises(KilledError), resume_lines(output, SETTINGS) as lines:
            lines.append(["one", "two"])
    assert "out.jsonl.parts/manifest.json" in names(output)
    with resume_lines(output, SETTINGS) as lines:
        assert lines.num_lines == 2
        lines.append(["three"])
    assert read_bytes(output) == b"one\ntwo\nthree\n"


def test_a_part_that_the_manifest_does_not_list_does_not_count(output: Any) -> None:
    with resume_lines(output, SETTINGS) as lines:
        lines.append(["one"])
    files_for(output).write(f"{output}.parts/000000000001.jsonl", b"half")
    assert Parts(output).num_lines == 1


def test_settings_and_other_writers_are_refused_as_in_a_folder(output: Any) -> None:
    with resume_lines(output, SETTINGS) as lines:
        lines.append(["one"])
        message = f"{output} is in use by another run"
        with pytest.raises(UserError, match=message), resume_lines(output, SETTINGS):
            pass
    with (
        pytest.raises(UserError, match="begun under other settings"),
        resume_lines(output, {"mode": "score"}),
    ):
        pass
    files_for(output).write(output.with_name("theirs.jsonl"), b"{}\n")
    with (
        pytest.raises(UserError, match="was not made by mrt5 infer"),
        resume_lines(output.with_name("theirs.jsonl"), SETTINGS),
    ):
        pass
    assert read_bytes(output) == b"one\n"
