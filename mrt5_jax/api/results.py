"""What a model gives back: texts, log-probabilities, and deletions that show themselves."""

import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Int

from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import Piece
from mrt5_jax.evaluation.page import Section, render_fragment, render_page
from mrt5_jax.evaluation.terminal import LEGEND, render_pieces, statistics_line
from mrt5_jax.runs.files import AnyPath, given_path
from mrt5_jax.runs.model_dir import write_atomically

_WIDTH = 100
"""Cells of a line in Python's prompt."""


class GeneratedText(NamedTuple):
    """What a model wrote for one input.

    Examples:
        >>> found = model.generate(["#Hello"], max_length=8)[0]
        >>> found.length, found.kept + found.dropped <= found.length, len(found.ids) <= 8
        (7, True, True)
    """

    text: str
    """The bytes among the ids; what is no UTF-8 is left out."""
    ids: list[int]
    """Up to and with the end of sequence (1), if it came within the length."""
    log_probability: float
    """Sum over the ids under the model, nats."""
    length: int
    """Ids of the input, end of sequence included."""
    kept: int
    """Positions of the input that stayed; under soft deletion those that hard deletion would keep."""
    dropped: int
    """Positions that the gate kept and a capacity had no slot for."""


class TargetScore(NamedTuple):
    """How probable a target is to a model.

    Examples:
        >>> found = model.score([("#Hello", "#Hll")])[0]
        >>> found.log_probability < 0, found.num_target_tokens, found.length
        (True, 5, 7)
    """

    log_probability: float
    """Sum over the target's ids given the input, nats."""
    num_target_tokens: int
    """Ids of the target, end of sequence included."""
    length: int
    """As in `GeneratedText`, like the next two."""
    kept: int
    dropped: int


class EncodedTexts(NamedTuple):
    """The encoder's output for some texts, in as many slots as the fullest of them keeps.

    Examples:
        >>> encoded = model.encode(["#Hello", "#a"])
        >>> [len(states[used]) == sum(used.tolist()) for states, used in zip(encoded.hidden, encoded.mask)]
        [True, True]
    """

    hidden: Float[np.ndarray, "texts slots embed"]
    """Zeros in slots that are not used."""
    positions: Int[np.ndarray, "texts slots"]
    """Where in its text, in bytes from 0, each slot comes from; the end of sequence is one position more."""
    mask: Bool[np.ndarray, "texts slots"]
    """Slots in use; they come first."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextDeletions:
    """Which bytes of one text a gate deletes; shows itself in colour in a notebook.

    Examples:
        >>> found = model.deletions(["#Hello"])[0]
        >>> len(found.kept_bytes) <= 6, 0 <= found.deletion_rate < 1
        (True, True)
    """

    windows: Sequence[Sequence[Piece]]
    """Characters with the fate of their bytes. A text longer than the model's input has several windows, each seen
    alone, and each with an end of sequence."""
    scale: float
    """k, the gate value of full deletion; 0 keeps."""

    @property
    def pieces(self) -> list[Piece]:
        """The characters of all windows, in order."""
        return [piece for window in self.windows for piece in window]

    @property
    def ids(self) -> list[int]:
        """The ids of the text: bytes + 3, and 1 at the end of each window."""
        return [token for piece in self.pieces for token in piece.ids]

    @property
    def keep(self) -> list[bool]:
        """Whether each of `ids` stays under hard deletion."""
        return [kept for piece in self.pieces for kept in piece.keep]

    @property
    def values(self) -> list[float]:
        """The gate value of each of `ids`, from `scale` (deletes) to 0 (keeps)."""
        return [value for piece in self.pieces for value in piece.values]

    @property
    def kept_bytes(self) -> bytes:
        """What is left of the text."""
        return bytes(token - 3 for token, kept in zip(self.ids, self.keep, strict=True) if kept and token > 2)

    @property
    def deletion_rate(self) -> float:
        """The share of `ids` that is deleted."""
        return 1 - sum(self.keep) / len(self.keep)

    def sections(self, heading: str = "") -> list[Section]:
        """Returns what a page shows: each window under its heading.

        Args:
            heading: of the text; of several windows each adds its number.
        """
        if len(self.windows) == 1:
            return [Section(heading, self.windows[0])]
        return [Section(f"{heading}, window {number}", own) for number, own in enumerate(self.windows, start=1)]

    def __repr__(self) -> str:
        lines = [line.plain.rstrip() for window in self.windows for line in render_pieces(window, self.scale, _WIDTH)]
        return "\n".join([*lines, statistics_line(self.pieces)])

    def _repr_html_(self) -> str:
        return render_fragment([Section("", window) for window in self.windows], self.scale)


class Deletions(Sequence[TextDeletions]):
    """What a gate deletes of some texts, a `TextDeletions` each; shows itself in colour in a notebook.

    Examples:
        >>> found = model.deletions(["#Hello", "#a"])
        >>> len(found), len(found[:1]), found[1].ids
        (2, 1, [38, 100, 1])
    """

    def __init__(self, texts: Sequence[TextDeletions]) -> None:
        self._texts = texts

    @overload
    def __getitem__(self, index: int) -> TextDeletions: ...

    @overload
    def __getitem__(self, index: slice) -> "Deletions": ...

    def __getitem__(self, index: int | slice) -> "TextDeletions | Deletions":
        return Deletions(self._texts[index]) if isinstance(index, slice) else self._texts[index]

    def __len__(self) -> int:
        return len(self._texts)

    def write_page(self, path: AnyPath, title: str, introduction: str = "", headings: Sequence[str] = ()) -> None:
        """Writes a page of its own, without scripts and with nothing to load.

        Args:
            path: of the HTML file, local or in a bucket.
            title: the page's heading.
            introduction: a sentence below it.
            headings: of the texts; none given: "text 1" and so on.

        Raises:
            UserError: it cannot be written, or there is not a heading for each text.

        Examples:
            >>> model.deletions(["#Hello"]).write_page("deletions.html", "What is deleted")  # doctest: +SKIP
        """
        if not self._texts:
            raise UserError(f"{path}: there is no text to show")
        if headings and len(headings) != len(self._texts):
            raise UserError(f"headings: {len(headings)} of them for {len(self._texts)} texts: give one a text, or none")
        page = render_page(title, introduction, self._sections(headings), self._texts[0].scale)
        try:
            write_atomically(given_path(path), page)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): give another name") from None

    def __repr__(self) -> str:
        return "\n\n".join([*map(repr, self._texts), "\n".join(textwrap.wrap(LEGEND, _WIDTH))])

    def _repr_html_(self) -> str:
        if not self._texts:
            return ""
        return render_fragment(self._sections(), self._texts[0].scale)

    def _sections(self, headings: Sequence[str] = ()) -> list[Section]:
        names = headings or [f"text {number}" for number in range(1, len(self._texts) + 1)]
        by_text = (found.sections(name) for name, found in zip(names, self._texts, strict=True))
        return list(itertools.chain.from_iterable(by_text))
