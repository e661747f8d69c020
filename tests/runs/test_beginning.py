"""Training does not begin again by itself where a MODEL_DIR shows that it went further."""

import json
from pathlib import Path

import pytest

from mrt5_jax.config import CheckpointConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.beginning import check_beginning

MODEL = ModelConfig(emb_dim=4, num_heads=1, head_dim=4, mlp_dim=8, num_encoder_layers=2, num_decoder_layers=1)
DATA = DataConfig(train_task="t", eval_tasks=(), input_length=8, target_length=8, batch_size=1, eval_batch_size=1)
BEFORE = RunConfig("", MODEL, DATA, TrainingConfig(num_steps=20), checkpoints=CheckpointConfig(every=10))


def trained(folder: Path, last: int, *entries: str) -> Path:
    """A MODEL_DIR whose metrics go to step `last`, with these names below checkpoints."""
    (folder / "checkpoints").mkdir()
    for entry in entries:
        (folder / "checkpoints" / entry).mkdir()
    for name in ("metrics.jsonl", "timing.jsonl"):
        (folder / name).write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, last + 1)))
    return folder


@pytest.mark.parametrize(
    ("last", "entries"),
    [(9, ()), (0, ()), (12, ("10",)), (12, ("10.orbax-checkpoint-tmp",)), (9, ("0",))],
    ids=str,
)
def test_nothing_was_lost(tmp_path, last, entries):
    """A checkpoint is there, or the run was stopped before its first or in the middle of it."""
    check_beginning(trained(tmp_path, last, *entries), BEFORE, start_over=False)


@pytest.mark.parametrize(
    "change",
    ["emptied", "moved away", "only imported weights", "only damaged ones", "no metrics but timing", "shortest run"],
)
def test_lost_checkpoints_are_refused_until_a_person_decides(tmp_path, change):
    last = {"shortest run": 20, "only damaged ones": 0}.get(change, 10)
    folder = trained(tmp_path, last, *(["0"] if change == "only imported weights" else []))
    if change == "moved away":
        (folder / "checkpoints").rename(tmp_path / "elsewhere")
    if change == "only damaged ones":
        (folder / "damaged_checkpoints" / "10-1").mkdir(parents=True)
    if change == "no metrics but timing":
        (folder / "metrics.jsonl").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint of training, but .*--start_over"):
            check_beginning(folder, BEFORE, start_over=False)
        assert {path: path.read_bytes() for path in folder.rglob("*.jsonl")} == before
    check_beginning(folder, BEFORE, start_over=True)
    (aside,) = (folder / "set_aside").iterdir()
    assert {path.name: path.read_bytes() for path in aside.glob("*.jsonl")} == {
        path.name: content for path, content in before.items()
    }
    check_beginning(folder, BEFORE, start_over=False)
