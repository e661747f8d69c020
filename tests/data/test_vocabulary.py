"""Bytes and ids are the same thing, and text to look at hides nothing."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from transformers import ByT5Tokenizer

from mrt5_jax.data import vocabulary


@given(st.binary(max_size=64))
def test_every_byte_survives_encoding_and_decoding(data: bytes) -> None:
    assert vocabulary.decode(vocabulary.encode(data)) == data


def test_ids_are_those_of_byt5() -> None:
    text = "naïve 日本 🙂"
    expected = ByT5Tokenizer()(text, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(vocabulary.encode(text), expected)


def test_extra_id_sentinels_are_those_of_hugging_face() -> None:
    tokenizer = ByT5Tokenizer()
    names = [f"<extra_id_{number}>" for number in range(3)]
    assert list(vocabulary.sentinel_ids(3, "extra_ids")) == tokenizer.convert_tokens_to_ids(names)


def test_byte_sentinels_count_downwards_from_258_and_miss_all_utf8() -> None:
    most = vocabulary.MAX_SENTINELS["bytes"]
    ids = vocabulary.sentinel_ids(most)
    assert ids[0] == 258
    used = set(vocabulary.encode("".join(map(chr, [*range(0, 0xD800, 97), *range(0xE000, 0x110000, 97), 0x10FFFF]))))
    assert not used & set(ids)
    assert ids[-1] - vocabulary.BYTE_OFFSET == 0xF5


def test_text_to_look_at_marks_sentinels_separators_and_broken_bytes() -> None:
    ids = [*vocabulary.encode("é"), 258, vocabulary.EOS_ID, *vocabulary.encode(b"\xc3("), 2, 300, 1, 0, 0]
    shown = vocabulary.decode_to_text(ids, vocabulary.sentinel_ids(1))
    assert shown == "é<extra_id_0></s>\\xc3(<unk><id_300>"
