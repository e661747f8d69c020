"""Texts as they can be shown anywhere: control and format characters by their numbers, never acting."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Format characters that change nothing but how the letters beside them are drawn."""


def visible_text(text: str) -> str:
    r"""Returns a text in which control and format characters are escaped as \uNNNN, and line breaks are arrows."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(letter: str) -> str:
    if letter == "\n":
        return "\u21b5"
    category = unicodedata.category(letter)
    hidden = (category[0] == "C" and letter not in _JOINERS) or category in ("Zl", "Zp")
    return f"\\u{ord(letter):04X}" if hidden else letter
