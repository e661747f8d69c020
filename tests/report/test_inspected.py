"""What `mrt5 inspect` writes: a page of texts and models beside each other, and JSON lines with the same numbers."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.evaluation.attention_to_deleted import Attender, WindowAttention
from mrt5_jax.report.inspected import (
    InspectedModel,
    agreement_line,
    attention_line,
    inspection_lines,
    inspection_page,
    text_table,
)

from .made_runs import PageReader, deletions_of

CONTENTS = st.one_of(
    st.binary(min_size=1, max_size=24),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode(errors="replace")),
)
ALLOWED = {
    *("html", "meta", "title", "style", "h1", "h2", "p", "div", "span", "small", "del"),
    *("table", "caption", "tr", "th", "td"),
}
DATA = b"ab\n"
ONE = InspectedModel(
    *("one, step 3", "runs/one", 3, -15.0),
    {"de": deletions_of(DATA, {1})},
    {"de": [WindowAttention((0.25, 0.5), 3, {1: Attender(2, 0.75, 1)})]},
)
OTHER = InspectedModel("other, step 4", "runs/other", 4, None, {"de": deletions_of(DATA, {0, 1})}, {})


def titles(page: str) -> list[str]:
    return [attributes["title"] or "" for _, attributes in PageReader(page).tags if "title" in attributes]


def test_a_deleted_byte_says_who_attended_to_it() -> None:
    page = inspection_page("title", "introduction", [ONE])
    assert titles(page) == [
        "61 -0.25 kept",
        "62 -29.75 deleted\n62: attended to most by \u21b5, 1 position later, weight 0.750 in layer 1",
        "0A -0.25 kept",
        "-0.25 kept",
    ]
    assert PageReader(page).texts == [DATA]
    assert attention_line("de", ONE) in page


def test_attention_is_told_by_layer_over_all_windows() -> None:
    """Windows count by the positions that they keep."""
    assert attention_line("de", ONE) == (
        "of the attention of kept positions, deleted ones receive 25.0% in layer 0, 50.0% in layer 1; "
        "they are 25.0% of all"
    )
    windows = [WindowAttention((0.0,), 1, {}), WindowAttention((0.4,), 3, {})]
    two = InspectedModel("m", "m", 0, None, ONE.texts, {"de": windows})
    assert "receive 30.0% in layer 0;" in attention_line("de", two)


def test_two_models_stand_beside_each_other_with_what_they_agree_on() -> None:
    page = inspection_page("title", "introduction", [ONE, OTHER])
    read = PageReader(page)
    assert read.texts == [DATA, DATA]
    assert [row[0] for row in read.rows("one, step 3")] == [row[0] for row in read.rows("other, step 4")] == ["de"]
    agreement = agreement_line("de", ONE, OTHER)
    assert agreement == (
        "both keep 1 bytes, both delete 1; 0 are deleted by one, step 3 alone, 1 by other, step 4 alone"
    )
    assert page.count(agreement) == 1


def test_the_table_counts_the_bytes_of_each_text() -> None:
    table = text_table(ONE, "")
    assert list(table.headings[:5]) == ["text", "bytes", "deleted", "vowel", "consonant"]
    assert [list(row)[:5] for row in table.rows] == [["de", "3", "33.3%", "0.0%", "100.0%"]]


def test_lines_have_every_number() -> None:
    first, second = map(json.loads, inspection_lines([ONE, OTHER]).splitlines())
    about = {"text": "de", "model": "runs/one", "step": 3, "threshold": -15.0, "scale": -30.0}
    attended = {
        "share_by_layer": [0.25, 0.5],
        "attended_most_by": [{"position": 1, "by": 2, "weight": 0.75, "layer": 1}],
    }
    window = {
        "ids": [100, 101, 13, 1],
        "keep": [True, False, True, True],
        "values": [-0.25, -29.75, -0.25, -0.25],
        "attention_to_deleted": attended,
    }
    assert first == about | {"windows": [window]}
    assert (second["model"], second["threshold"]) == ("runs/other", None)
    assert [one.keys() for one in second["windows"]] == [{"ids": 0, "keep": 0, "values": 0}.keys()]


@given(CONTENTS, st.sets(st.integers(0, 24)), st.text(max_size=8))
def test_any_text_under_any_name_is_shown_as_it_is(data: bytes, deleted: set[int], name: str) -> None:
    """Also where it is what a deleted byte points to: the bytes come back, and nothing becomes markup."""
    found = deletions_of(data, deleted)
    gone = [place for place, kept in enumerate(found.keep) if not kept]
    kept = [place for place, kept in enumerate(found.keep) if kept]
    attenders = {place: Attender(kept[0], 0.5, 0) for place in gone if kept}
    model = InspectedModel(f"<b>{name}", name, 0, None, {name: found}, {name: [WindowAttention((0.5,), 1, attenders)]})
    read = PageReader(inspection_page(name, name, [model, model]))
    assert read.texts == [data, data]
    assert {tag for tag, _ in read.tags} <= ALLOWED
