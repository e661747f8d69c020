"""A study on paper: what it would cost to exchange rows between devices by their true kept length, after stage 1.

    python -m benchmarks.exchange                    # ByT5-small's rows on v5e:16x16; needs libtpu, no TPU

Dealing places rows by what is expected of them (docs/COMPACTION.md). Once the gate has decided, lengths are known, and
rows could be sorted over all devices, at the price of sending them there, and the gradient of their hidden states
back. The program that does that, and nothing else, is compiled for a slice: every device gathers all kept counts, sorts
them alike, and sends each of its rows to the device that the k-th row of all belongs to (`jax.lax.ragged_all_to_all`).
Printed are its collectives by the compiler's text, the compiler's cycles for what lies between, and seconds on the
links by arithmetic: rows go to devices anywhere, so half of them cross the middle of a torus of X x Y chips, which 2 Y
links join in each direction (X the longer side).
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from mrt5_jax.parallel.peaks import clock_rate
from mrt5_jax.tools.collectives import collectives
from mrt5_jax.tools.cycles import estimated_cycles
from mrt5_jax.tools.hlo import parse_hlo
from mrt5_jax.tools.topology import topology_of

LINK_BYTES = 50e9
"""A second, of one of a v5e's four links in one direction: 1,600 Gbit/s a chip."""
AXIS = "data"


def sent_by_rank(rows: Array, kept: Array) -> Array:
    """Exchanges rows so that the k-th rows of all devices are alike; within `jax.shard_map` over AXIS.

    Args:
        rows: [rows ...] of a device.
        kept: [rows] of a device.
    """
    count = kept.shape[0]
    everybody = jax.lax.all_gather(kept, AXIS)  # [devices rows]
    devices = everybody.shape[0]
    rank = jnp.argsort(jnp.argsort(everybody.reshape(-1), stable=True)).reshape(devices, count)
    goes_to = jnp.sort(rank % devices, axis=1)  # of each device's rows, those for the first device first
    sizes = jnp.sum(goes_to[:, :, None] == jnp.arange(devices), axis=1)  # [from to]
    mine = jax.lax.axis_index(AXIS)
    own = jnp.take(rows, jnp.argsort(rank[mine] % devices, stable=True), axis=0)
    begins = jnp.cumsum(sizes[mine]) - sizes[mine]
    lies_at = (jnp.cumsum(sizes, axis=0) - sizes)[mine]  # behind the rows of the devices before this one
    return jax.lax.ragged_all_to_all(
        own,
        jnp.zeros_like(own),
        begins.astype(jnp.int32),
        sizes[mine].astype(jnp.int32),
        lies_at.astype(jnp.int32),
        sizes[:, mine].astype(jnp.int32),
        axis_name=AXIS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:16x16", help="(default: v5e:16x16)")
    parser.add_argument("--rows", type=int, default=4, help="of a device (default: 4)")
    parser.add_argument("--length", type=int, default=1024, help="(default: 1024)")
    parser.add_argument("--embed", type=int, default=1472, help="(default: 1472, ByT5-small's)")
    args = parser.parse_args()
    devices = topology_of(args.topology).devices
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    by_row = NamedSharding(mesh, PartitionSpec(AXIS))
    count = args.rows * len(devices)
    hidden = jax.ShapeDtypeStruct((count, args.length, args.embed), jnp.bfloat16, sharding=by_row)
    kept = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=by_row)
    exchange: Any = jax.shard_map(sent_by_rank, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS))
    text = jax.jit(exchange).lower(hidden, kept).compile().as_text() or ""
    program = parse_hlo(text)
    for one in collectives(program):
        print(f"{one.kind}: {one.times} x {one.bytes / 1e6:.3f} MB a device")
    print(f"ragged-all-to-all: {text.count(' ragged-all-to-all(')} in the compiler's text")
    cycles, rate = estimated_cycles(program), clock_rate(devices[0])
    if cycles is not None:
        print(f"between them {cycles / 1e6:.2f} million cycles{f', {1000 * cycles / rate:.2f} ms' if rate else ''}")
    sides = [int(side) for side in args.topology.rpartition(":")[2].split("x")]
    moved = args.rows * args.length * args.embed * 2
    crossing = moved * len(devices) / 4  # in each direction
    seconds = crossing / (2 * min(sides) * LINK_BYTES)
    print(
        f"{moved / 1e6:.1f} MB of a device's rows; over the links {1000 * seconds:.2f} ms there and as much for the "
        f"gradient, {2000 * seconds:.2f} ms a step: compare with `python -m benchmarks.scale` and `benchmarks.dealing`"
    )


if __name__ == "__main__":
    main()
