"""What a compression scheme cannot do is refused when a run starts, in one line with the remedy; nothing is written."""

from pathlib import Path

import pytest

SHORT, OTHER = "short.jsonl", "other.jsonl"
SETTINGS = "config.GateConfig.settings="


@pytest.fixture
def train(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `mrt5 train` with a scheme, beside files of masks; returns the complaint. MODEL_DIR stays as it was."""
    (tmp_path / SHORT).write_text('{"inputs": "ab", "mask": "10"}\n')
    (tmp_path / OTHER).write_text('{"inputs": "another text", "mask": "0000000100001"}\n')
    monkeypatch.chdir(tmp_path)

    def run(scheme: str, binding: str) -> str:
        files = ["--gin_file=runs/quickstart.gin", f"--gin_file=models/{scheme}.gin"]
        return refused("train", *files, f"--gin.MODEL_DIR='{tmp_path / 'model'}'", f"--gin.{binding}")

    return run


@pytest.mark.parametrize(
    ("scheme", "binding", "words"),
    [
        ("bpt5", f"{SETTINGS}(('prior', 1.0),)", ["'prior' = 1.0: should be between 0 and 1"]),
        ("bpt5", f"{SETTINGS}(('temperature', 0.0),)", ["'temperature' = 0.0: should be greater than 0"]),
        ("magnet_t5", f"{SETTINGS}(('latin', 0.0),)", ["'latin' = 0.0: should be between 0 and 1"]),
        ("magnet_t5", f"{SETTINGS}(('klingon', 0.2),)", ["names 'klingon': a selector of kind = 'magnet' has latin, "]),
        ("flexitokens_t5", f"{SETTINGS}(('upper', 0.05),)", ["'lower' = 0.1 is above 'upper' = 0.05: give bounds"]),
        ("hnet_t5", f"{SETTINGS}(('downsampling', 1.0),)", ["'downsampling' = 1.0: should be greater than 1"]),
        ("top_k_t5", "SCORE='beauty'", ["'score' = 'beauty': should be 'gate' or 'router'"]),
        ("random_t5", "config.GateConfig.deletion_probability=1.0", ["= 1.0: should be between 0 and 1"]),
        ("fixed_t5", "config.GateConfig.deletion_probability=0.0", ["= 0.0: should be between 0 and 1"]),
        ("oracle_t5", "MASKS='nowhere.jsonl'", ["'masks' = nowhere.jsonl: "]),
        ("bpt5_white_space", "TEACHER='nowhere.jsonl'", ["'teacher' = nowhere.jsonl: "]),
        *(
            (scheme, f"{macro}='{file}'", words)
            for scheme, macro in (("oracle_t5", "MASKS"), ("bpt5_white_space", "TEACHER"))
            for file, words in (
                (SHORT, ["line 1: a mask of 2 for 2 bytes and an end of sequence: give a 0 or 1 for each"]),
                (OTHER, [f"{OTHER} has no mask for '", ", which a batch has: add a line with these inputs"]),
            )
        ),
        ("bpt5", "config.TrainingConfig.deletion='soft'", ["'soft': a model that pools trains under 'hard' alone"]),
        ("bpt5", "config.EvaluationConfig.deletions=('hard', 'random')", ["'random': a model that pools positions"]),
        (
            "hnet_t5",
            "config.TrainingConfig.deletion='saturated'",
            ["that has no gate values trains under 'hard'"],
        ),
    ],
    ids=str,
)
def test_a_run_is_refused(train, scheme: str, binding: str, words: list[str]) -> None:
    message = train(scheme, binding)
    for word in words:
        assert word in message
