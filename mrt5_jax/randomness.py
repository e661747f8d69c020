"""Lists every use of a random key once: no key is used twice.

A seed makes a root key, and what follows is folded in.

    initial parameters              the names of the modules (Flax)
    a training step                 the step's number, then the row's: the row's key, whose uses are `RowUse`
    an evaluation's random deletion the example's index: a selector's key, whose uses are `SelectorUse`
    a selector outside of training  `selection.random_choice.token_keys`, from a root of its own: a selector's key
    sampling                        the request's number, then the number of the token

The seeds of different commands may be equal; what they draw never meets in one program. Data randomness and the choice
of hard steps are NumPy's and know none of these keys.
"""

import enum


@enum.unique
class RowUse(enum.IntEnum):
    """What is folded into a row's key in a training step."""

    WEIGHTS_BY_INPUT = 0
    """Dropout of attention weights whose keys are positions of the input."""
    WEIGHTS_BY_TARGET = 1
    """Dropout of attention weights whose keys are positions of the target."""
    UNITS = 2
    """Dropout of hidden units."""
    SELECTOR = 3
    """The selector's key."""


@enum.unique
class SelectorUse(enum.IntEnum):
    """What is folded into a selector's key. (The noise of a learned gate or of a boundary predictor, its only use, is
    drawn from the key itself.)"""

    SHARE = 0
    """The share of a row that the random selector deletes."""
    POSITIONS = 1
    """Which positions the random selector keeps; the position is folded in next."""
    INSTEAD = 2
    """Which positions random deletion keeps in place of the gate's; the position is folded in next."""
