"""What the selectors with boundary predictors have in common."""

import math

import numpy as np

from . import Given, gelu, normed, sigmoid


def logits(given: Given, which: np.ndarray | None = None) -> np.ndarray:
    params, width = given.params, given.params["wo_kernel"].shape[1]
    inner = gelu(normed(given.hidden, params["norm"]["scale"]) @ params["wi_kernel"] + params["wi_bias"])
    which = np.zeros(len(given.ids), int) if which is None else which
    return np.array(
        [
            inner[t, s * width : (s + 1) * width] @ params["wo_kernel"][s] + params["wo_bias"][s]
            for t, s in enumerate(which)
        ]
    )


def boundaries(given: Given, z: np.ndarray, temperature: float) -> np.ndarray:
    """Straight-through; the last one is certain."""
    noise = 0 if given.noise is None else given.noise
    ends = given.decisions.straight_through(sigmoid((z + noise) / temperature))
    ends[-1] = 1.0
    return ends


def surprise(count: float, size: int, prior: float) -> float:
    choose = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return -(choose + count * math.log(prior) + (size - count) * math.log(1 - prior))


def scripts_of(ids: np.ndarray) -> list[str | None]:
    """The script of the last letter up to each byte, by Unicode names of characters whose bytes are complete enough."""
    import unicodedata

    data, found, script = bytes(int(i) - 3 if 3 <= i < 259 else 0 for i in ids), [], None
    for position, byte in enumerate(data):
        start = position
        while start > 0 and 0x80 <= data[start] < 0xC0 and position - start < 2:
            start -= 1
        character = next(
            (
                data[start:end].decode()
                for end in range(position + 1, min(len(data), start + 4) + 1)
                if _decodes(data[start:end])
            ),
            None,
        )
        told_here = character is not None and position - start == (
            0 if byte < 0x80 or data[start] not in b"\xe0\xe3\xea\xed" else 1
        )
        if character is not None and told_here and character.isalpha():
            name = unicodedata.name(character, "").split(" ")[0].split("-")[0].lower()
            script = {"cjk": "han", "hiragana": "kana", "katakana": "kana"}.get(name, name)
        found.append(script)
    return found


def _decodes(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
