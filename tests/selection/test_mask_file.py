"""Files of masks: what is none is refused in one line that names its own, and a file that has changed is read again."""

from pathlib import Path

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.selection.mask_file import read_masks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"inputs": "ab", "mask": "10"}',
            "line 1: a mask of 2 for 2 bytes and an end of sequence: give a 0 or 1 for each",
        ),
        ('{"inputs": [100, 1], "mask": "101"}', "line 1: a mask of 3 for 2 ids"),
        ('\n{"inputs": "a", "mask": "12"}', "line 2: expected"),
        ('{"inputs": [0, 1], "mask": "10"}', "line 1: expected .*, ids above 0"),
        ('{"inputs": [], "mask": ""}', "line 1: expected"),
        ('{"inputs": [1.5], "mask": "1"}', "line 1: expected"),
        ('{"inputs": "a"}', "line 1: expected"),
        ("[1]", "line 1: expected"),
        ("{", "line 1: expected"),
        ("", "no masks: give a JSON line an example"),
        (
            '{"inputs": "a", "mask": "10"}\n{"inputs": "a", "mask": "11"}',
            "line 2: another mask for inputs of a line before",
        ),
    ],
)
def test_what_is_no_file_of_masks_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "masks.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as refusal:
        read_masks(str(path), "masks")
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_masks_are_bits_and_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    """A line ends at a newline alone, not at what else Unicode takes for one."""
    path = tmp_path / "masks.jsonl"
    for text, mask, byte in (("a\u2028b", "100001", 0b10000100), ("ab", "011", 0b01100000)):
        path.write_text(f'{{"inputs": "{text}", "mask": "{mask}"}}\n', encoding="utf-8")
        assert read_masks(str(path), "masks").bits.tolist() == [[byte]]
