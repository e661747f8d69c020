"""Runs a toy on eight simulated devices; prints loss, gradients and collectives as JSON.

python -m tests.selection.on_eight_devices 'soft gate' 4      (a toy, and its number of chunks)
"""

import dataclasses
import json
import sys
from typing import Any

import jax

from mrt5_jax.compaction.staged import in_graph
from mrt5_jax.config import MeshConfig
from mrt5_jax.parallel.mesh import batch_sharding, make_mesh, on_mesh, replicated, row_shards
from mrt5_jax.tools.collectives import collectives
from mrt5_jax.tools.hlo import parse_hlo
from mrt5_jax.training.staged_gradients import gradient_stages

from .toys import make_batch, make_params, make_shared, stages_of
from .ways import TOYS, arrays, cuts_for


def found(name: str, num_chunks: int) -> dict[str, Any]:
    toy, penalty = TOYS[name]
    params, batch = arrays(make_params()), arrays(make_batch())
    mesh = make_mesh(MeshConfig(), jax.devices())
    with on_mesh(mesh, MeshConfig()):
        shared = jax.device_put(make_shared(toy, penalty, params, batch), replicated(mesh))
        inputs = jax.device_put(params, replicated(mesh)), shared, jax.device_put(batch, batch_sharding(mesh))
        staged = gradient_stages(stages_of(toy, penalty), cuts_for(num_chunks, row_shards(mesh)))
        compiled = jax.jit(in_graph(staged)).lower(*inputs).compile()
        part = jax.device_get(compiled(*inputs))
    return {
        "loss": float(part.total.loss),
        "gradients": [leaf.tolist() for leaf in jax.tree.leaves(part.total.gradients)],
        "rungs": part.rows["rung"].tolist(),
        "collectives": [dataclasses.asdict(one) for one in collectives(parse_hlo(compiled.as_text() or ""))],
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(found(sys.argv[1], int(sys.argv[2]))))
