"""What a selector that has learned nothing keeps of a text: to see a rule, and that a new selector runs.

from mrt5_jax.config import GateConfig
from mrt5_jax.tools.untrained import show_untrained

print(show_untrained("The cat, 42.", GateConfig(kind="spacelike")))
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax import presets
from mrt5_jax.config import GateConfig
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.selection.selectors import make_selector
from mrt5_jax.validation import check_gate

_GONE, _BEYOND_ASCII = "·", "*"


def show_untrained(text: str, gate: GateConfig, seed: int = 0) -> str:
    """Shows which bytes of a text a selector keeps, with parameters as they are initialised.

    Hidden states are random vectors, one for each byte. So of a rule this shows what it does; of a selector that
    learns, that it runs and what its initial bias makes of it.

    Args:
        text: the input; an end of sequence is added, and not shown.
        gate: the selector by its name, and its settings; `layer` plays no part.
        seed: of parameters and hidden states.

    Returns:
        a character a byte: itself where the byte stays, or owns the slot that others are pooled into; "·" where it is
        deleted, or pooled into another one. A byte beyond ASCII that stays is "*".

    Raises:
        UserError: there is no such selector, or its settings cannot be.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="every_kth", stride=4))
        'T···c··· ···'
    """
    config = presets.mrt5("tiny", gate=dataclasses.replace(gate, layer=1))
    assert config.gate is not None
    check_gate(config.gate, config.num_encoder_layers)
    tokens = jnp.asarray([[*encode(text).tolist(), EOS_ID]], jnp.int32)
    of_states, of_parameters = jax.random.split(jax.random.key(seed))
    hidden = jax.random.normal(of_states, (config.vocab_size, config.emb_dim))[tokens]
    selector, mask = make_selector(config), jnp.ones(tokens.shape, bool)
    selection, _ = jax.jit(selector.init_with_output)(of_parameters, hidden, tokens, mask, None)
    kept = np.asarray(selection.keep)[0, :-1].tolist()
    shown = (chr(byte) if byte < 128 else _BEYOND_ASCII for byte in text.encode())
    return "".join(letter if stays else _GONE for letter, stays in zip(shown, kept, strict=True))
