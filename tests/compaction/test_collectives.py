"""Compaction under batch sharding stays on its device."""

import os
import subprocess
import sys

_PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan, rescued_rows, restrict, scatter_back

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))

def compact(hidden, keep, scores, input_mask):
    rescued = never_empty(keep, scores, input_mask)
    kept = restrict(rescued, scores, 4)
    planned = plan(kept, 4)
    dropped = count_kept(rescued) - count_kept(kept)
    back = scatter_back(jnp.sin(gather(hidden, planned.positions)), planned, 16)
    return planned, rescued_rows(keep, rescued), dropped, back

def gradient(hidden, keep, scores, input_mask):
    return jax.grad(lambda hidden: compact(hidden, keep, scores, input_mask)[-1].sum())(hidden)

def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=rows)

arguments = shape(16, 16, 4), shape(16, 16, dtype=bool), shape(16, 16), shape(16, 16, dtype=bool)
for function, shardings in (compact, rows), (gradient, rows):
    print(jax.jit(function, out_shardings=shardings).lower(*arguments).compile().as_text())
# The control: a maximum over the batch cannot do without.
print("CONTROL")
print(jax.jit(lambda keep: count_kept(keep).max()).lower(arguments[1]).compile().as_text())
"""
_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def test_compaction_adds_no_collectives_under_batch_sharding(repository):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, cwd=repository, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    programs, control = result.stdout.split("CONTROL")
    assert "num_partitions=8" in programs
    assert any(name in control for name in _COLLECTIVES)
    assert [name for name in _COLLECTIVES if name in programs] == []
