"""The page: complete on its own, safe whatever the text, every deletion told without colour."""

from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.evaluation.inspection import Piece, pieces
from mrt5_jax.evaluation.page import CountTable, Section, describe_piece, render_page

TAGS = {"html", "meta", "title", "style", "h1", "h2", "p", "div", "span", "small", "del", "table", "tr", "th", "td"}
CONTENTS = st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode(errors="replace")))


def make_pieces(data: bytes, deleted: set[int]) -> list[Piece]:
    ids = np.asarray([*encode(data), EOS_ID], np.int32)
    keep = np.array([position not in deleted for position in range(len(ids))])
    return pieces(ids, keep, np.where(keep, -0.25, -29.75).astype(np.float32))


class Reader(HTMLParser):
    """Collects a page's tags, and what stands in its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.deleted: list[str] = []
        self._open: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "p":
            self._inside = attributes.get("class") == "text"
            self.texts += [""] if self._inside else []
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        self._inside = self._inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data
            self.deleted += [data] if "del" in self._open else []


@given(CONTENTS, st.sets(st.integers(0, 40)))
def test_any_text_is_shown_as_it_is(data: bytes, deleted: set[int]) -> None:
    """No content becomes markup; all pieces are there in order; deleted ones, and no others, stand in <del>."""
    found = make_pieces(data, deleted)
    page = Reader(render_page("title", "introduction", [Section("heading", found)], -30.0))
    assert page.texts == ["".join(piece.text.replace("\n", "\u21b5\n") for piece in found)]
    wanted = [piece.text.replace("\n", "\u21b5") for piece in found if piece.state == "deleted"]
    assert page.deleted == wanted
    assert {tag for tag, _ in page.tags} <= TAGS


def test_page_is_self_contained() -> None:
    """Nothing is loaded and nothing runs; light and dark are both asked for."""
    page = render_page("<b>", "&", [Section("<script>", make_pieces(b"<script src=x>", {1}), "<i>note")], -30.0)
    for word in ("<script", "http", "src=", "@import", "url(", "<b>", "<i>"):
        assert word not in page.replace("src=x&gt;", "").replace("&lt;script", "")
    assert "color-scheme: light dark" in page  # the colours are seen on both: tests/api/test_model.py
    assert 'lang="en"' in page


def test_every_character_tells_its_values() -> None:
    """Titles have each byte's value and fate; partly deleted characters show which bytes are gone."""
    found = make_pieces("né\xff".encode(), {2, 5})
    page = Reader(render_page("t", "i", [Section("h", found)], -30.0))
    titles = [attributes["title"] for tag, attributes in page.tags if "title" in attributes]
    assert titles == [
        "6E -0.25 kept",
        "C3 -0.25 kept, A9 -29.75 deleted",
        "C3 -0.25 kept, BF -0.25 kept",
        "-29.75 deleted",
    ]
    assert describe_piece(found[1]) == titles[1]
    (part,) = (attributes for _, attributes in page.tags if attributes.get("class") == "part" and "title" in attributes)
    assert "rgb(var(--blue)) 0% 50%,rgb(var(--red)) 50% 100%" in part["style"]
    assert "--d:0.50" in part["style"]


def test_statistics_are_by_kind() -> None:
    page = render_page(
        "t", "i", [Section("a", make_pieces(b"ab1", {0, 2})), Section("b", make_pieces(b"c", {1}))], -30.0
    )
    assert "bytes of letters</th><td>3</td><td>2</td><td>1</td><td>33.3%" in page
    assert "other bytes</th><td>1</td><td>0</td><td>1</td><td>100.0%" in page
    assert "special tokens</th><td>2</td><td>1</td><td>1</td><td>50.0%" in page


def test_remarks_stand_at_the_characters_of_their_ids() -> None:
    """In their order, where there are any; no markup comes of them."""
    section = Section("h", make_pieces("né".encode(), {2}), remarks=["", "first", '<"second">', ""])
    page = Reader(render_page("t", "i", [section], -30.0))
    titles = [attributes["title"] for tag, attributes in page.tags if "title" in attributes]
    assert titles == ["6E -0.25 kept", 'C3 -0.25 kept, A9 -29.75 deleted\nfirst\n<"second">', "-0.25 kept"]


def test_tables_stand_in_place_of_the_counts_of_all_texts() -> None:
    table = CountTable("<t>", ("text", "<b>"), [["<i>", "1"]])
    page = render_page("t", "i", [Section("h", make_pieces(b"a", set()))], -30.0, [table])
    assert "<caption>&lt;t&gt;</caption>" in page
    assert '<th scope="col">&lt;b&gt;</th>' in page
    assert '<th scope="row">&lt;i&gt;</th><td>1</td>' in page
    assert "in the texts below" not in page
