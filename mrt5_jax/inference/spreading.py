"""Rows of a batch over the devices of a mesh, and their results back on the host.

Rows come sorted by length. They are dealt slot by slot, so that the k-th rows of all devices are alike: one rung holds
for all devices, see `data.dealing`. What lies where follows from the number of devices alone, so that a run that goes
on computes what it would have computed.
"""

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from mrt5_jax.compaction.rows import Arrays
from mrt5_jax.data.dealing import deal
from mrt5_jax.parallel.batches import check_batch_size
from mrt5_jax.parallel.mesh import batch_sharding, row_shards


def spread_rows(rows: Arrays, mesh: Mesh | None) -> Arrays:
    """Brings rows to the devices.

    Args:
        rows: pytree of arrays [batch ...].
        mesh: None: the default device alone, in their order.

    Raises:
        UserError: the devices cannot share them.
    """
    if mesh is None:
        return jax.device_put(rows)
    order = _dealt(rows, mesh)
    return jax.device_put(jax.tree.map(lambda leaf: leaf[order], rows), batch_sharding(mesh))


def gather_rows(results: Arrays, mesh: Mesh | None) -> Arrays:
    """Returns the results of rows that `spread_rows` brought to the devices, in the order that they had before.

    Of several devices they come to the host.
    """
    if mesh is None:
        return results
    places = np.argsort(_dealt(results, mesh))
    return jax.tree.map(lambda leaf: leaf[places], jax.device_get(results))


def _dealt(rows: Arrays, mesh: Mesh) -> Int[np.ndarray, " batch"]:
    """The row that lies at each place of the devices, one device after another."""
    batch_size = jax.tree.leaves(rows)[0].shape[0]
    check_batch_size(batch_size, mesh, "batch")
    return deal(np.arange(batch_size, dtype=np.float64), row_shards(mesh).count).reshape(-1)
