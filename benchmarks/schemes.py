"""A forward pass of every scheme at 50 % kept, beside the ideal of its multiply-adds: `python -m benchmarks.schemes`.

Inputs of 1024 bytes, targets of 189, emb 512, mlp 1024, 9 + 3 layers, float32, random weights. Each scheme's selector
runs as it is; what it keeps is then replaced, so that all keep the same. "50 %": half of each row, at random places.
"lengths": rows as a trained gate keeps them (`benchmarks/kept_lengths.tsv`), sorted into two chunks with a rung each;
the ideal is of the kept positions, so that the rounding to rungs is seen as time. The baseline has no gate.
"""

import dataclasses
import functools

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser, report
# isort: on

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.bench_model import BYT5, CONFIG, DATA, EXECUTION, LENGTH, TARGET, make_params
from benchmarks.kept_rows import KEPT_LENGTHS, batch_keeping, draw_counts, read_kept
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward
from mrt5_jax.model.multiply_adds import forward_multiply_adds
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.segments import segments_by_rule
from mrt5_jax.selection.selectors import SELECTORS

ROWS, CHUNKS = 4, 2
BASELINE = "no deletion"
KEPT_BELOW = 131
"""Ids below this are kept, as `batch_keeping` makes them."""
SCHEMES = {
    **{kind: GateConfig(3, kind) for kind in SELECTORS if kind not in ("oracle", "magnet", "every_kth")},
    "magnet": GateConfig(3, "magnet", settings=(("latin", 0.2), ("devanagari", 0.08), ("cyrillic", 0.1))),
    "every_kth": GateConfig(3, "every_kth", stride=2),
    "every_kth, convolution": GateConfig(3, "every_kth", stride=2, reduction="convolution"),
    "top_k, router": GateConfig(3, "top_k", settings=(("score", "router"),)),
}
"""All selectors but the oracle, whose reading of a file is no cost of a scheme."""


class Load(NamedTuple):
    """A batch whose rows keep so many positions each."""

    name: str
    batch: dict[str, jax.Array]
    kept: np.ndarray
    ladder: Ladder
    chunks: int

    def slots(self) -> np.ndarray:
        """Returns the length that each row runs at, of rows sorted by what they keep: its chunk's rung."""
        fullest = np.sort(self.kept).reshape(self.chunks, -1).max(axis=1)
        return np.repeat([self.ladder.host_rung(int(count)) for count in fullest], len(self.kept) // self.chunks)


def loads() -> list[Load]:
    """Half of every row, and the lengths of a trained model."""
    half = np.full(ROWS, LENGTH // 2)
    own = draw_counts(read_kept(KEPT_LENGTHS), ROWS, LENGTH)
    return [
        Load("50 %", batch_keeping(half, LENGTH, TARGET), half, Ladder((LENGTH // 2, LENGTH)), 1),
        Load("lengths", batch_keeping(own, LENGTH, TARGET), own, make_ladder(LENGTH, EXECUTION, "cpu"), CHUNKS),
    ]


def forced(own: Selection, tokens: jax.Array, mask: jax.Array) -> Selection:
    """What a selector says, with what the ids say in the place of its choice."""
    said = own.priority if own.signals.weights is None else own.priority + own.signals.weights
    # The last condition never holds, which no compiler knows: the selector is computed for it.
    keep = mask & ((tokens < KEPT_BELOW) | (said > 1e30))
    if own.merged_into is None:
        return own._replace(keep=keep)
    # What lies before the first of them is in no segment: so a row keeps exactly as many as it should.
    pooled = segments_by_rule(keep, mask, own.priority.dtype)
    return own._replace(keep=pooled.keep, merged_into=pooled.merged_into, signals=pooled.signals)


def with_forced_choice(kind: str) -> None:
    """Replaces a selector of the table by one that computes the same and then keeps what the ids say."""
    rule = SELECTORS[kind]

    def make(config: ModelConfig) -> Any:
        plain: Any = type(rule.make(config))

        class Forced(plain):
            def __call__(self, hidden: Any, tokens: Any, mask: Any, keys: Any, segments: Any = None) -> Selection:
                return forced(plain.__call__(self, hidden, tokens, mask, keys, segments), tokens, mask)

        return Forced(config)

    SELECTORS[kind] = dataclasses.replace(rule, make=make)


def ideal(config: ModelConfig, kept: np.ndarray) -> float:
    """Multiply-adds of a batch whose rows keep so many positions, the selector's and a convolution's among them."""
    total = sum(forward_multiply_adds(config, DATA, int(count)).total for count in kept)
    if (gate := config.gate) is not None:
        # The sum above has a learned gate's.
        total += len(kept) * LENGTH * (SELECTORS[gate.kind].multiply_adds(config) - config.emb_dim)
        if gate.reduction == "convolution":
            total += int(kept.sum()) * gate.stride * config.emb_dim**2
    return float(total)


def contestants(found: list[Load]) -> Iterator[tuple[str, Contestant]]:
    run, first = jax.jit(forward, static_argnums=0), found[0]
    # Made when they are wanted: `--schemes` leaves most of them out.
    params_of = functools.cache(make_params)
    baseline, full = ForwardSetting(MrT5(BYT5, EXECUTION), "none", Ladder((LENGTH,))), np.full(ROWS, LENGTH)
    yield BASELINE, Contestant(lambda: run(baseline, params_of(BYT5), first.batch).logits, ideal(BYT5, full))
    for kind in {gate.kind for gate in SCHEMES.values()}:
        with_forced_choice(kind)
    for name, gate in SCHEMES.items():
        config = dataclasses.replace(CONFIG, gate=gate)
        for load in found:
            setting = ForwardSetting(MrT5(config, EXECUTION), "hard", load.ladder, load.chunks)

            def call(setting: ForwardSetting = setting, config: ModelConfig = config, load: Load = load) -> Any:
                return run(setting, params_of(config), load.batch).logits

            yield f"{name}, {load.name}", Contestant(call, ideal(config, load.kept))


def main() -> None:
    parser = contest_parser(__doc__, rounds=3)
    parser.add_argument(
        "--schemes", nargs="+", metavar="NAME", choices=list(SCHEMES), help="these beside the baseline (default: all)"
    )
    args = parser.parse_args()
    found = loads()
    only = args.only
    if args.schemes:
        only = [*(only or ()), BASELINE, *(f"{name}, {load.name}" for name in args.schemes for load in found)]
    results = compete(dict(contestants(found)), args.rounds, only)
    report(f"forward pass of every scheme, {ROWS} x {LENGTH} -> {TARGET}, float32", results, BASELINE, args.json)
    own, base = found[1], results.get(BASELINE)
    CONSOLE.print(
        f"lengths: {own.kept.mean() / LENGTH:.1%} kept of {sorted(own.kept.tolist())} positions, run at "
        f"{own.slots().tolist()} slots, {own.slots().mean() / LENGTH:.1%}"
    )
    for name, gate in SCHEMES.items():
        if base is None or (result := results.get(f"{name}, {own.name}")) is None:
            continue
        at_slots = base.multiply_adds / ideal(dataclasses.replace(CONFIG, gate=gate), own.slots())
        CONSOLE.print(
            f"{name}: {base.median / result.median / at_slots:.0%} of the ideal at these slots, {at_slots:.2f}"
        )


if __name__ == "__main__":
    main()
