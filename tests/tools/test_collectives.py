"""Collectives are found wherever they run, as often as they run, with what they move; in a real program too."""

import subprocess
import sys
from pathlib import Path

import pytest

from mrt5_jax.tools.collectives import Collective, collectives, mesh_axes
from mrt5_jax.tools.hlo import parse_hlo

BY_HAND = (Path(__file__).parent / "by_hand.hlo").read_text()


def test_every_kind_of_caller_is_followed() -> None:
    found = collectives(parse_hlo(BY_HAND))
    assert found == [
        Collective("all-reduce", 8 * 4 * 4 + 4, 1, "", ()),
        Collective("all-gather", 16 * 4 * 4, 12, "", (0, 1)),
        Collective("all-reduce", 8 * 4 * 4 + 4, 9, "", ()),
        Collective("all-reduce", 8 * 4 * 2, 1, "conditional.9/0", (0, 2, 4, 6)),
        Collective("reduce-scatter", 8 * 4 * 4, 1, "conditional.9/1", (0, 1, 2, 3, 4, 5, 6, 7)),
        Collective("all-to-all", 8 * 4 * 4, 1, "", (0, 1, 2, 3)),
        Collective("all-to-all", 8 * 4 * 4, 1, "", (0, 2, 4, 6)),
        Collective("all-to-all", 8 * 4 * 4, 1, "", (0, 1)),
        Collective("all-to-all", 8 * 4 * 4, 1, "", (0, 4)),
        Collective("collective-permute", 8 * 4 * 4 + 8, 1, "", (0, 1)),
    ]


@pytest.mark.parametrize(
    ("group", "axes"),
    [((), ("data", "fsdp")), ((0, 1), ("fsdp",)), ((0, 2, 4, 6), ("data",)), (tuple(range(8)), ("data", "fsdp"))],
)
def test_a_group_of_devices_is_named_by_the_axes_it_spans(group: tuple[int, ...], axes: tuple[str, ...]) -> None:
    assert mesh_axes(group, {"data": 4, "fsdp": 2, "tensor": 1}) == axes


REAL = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from mrt5_jax.tools.collectives import collectives, mesh_axes
from mrt5_jax.tools.compiled import memory_of
from mrt5_jax.tools.hlo import parse_hlo

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
place = lambda *axes: NamedSharding(mesh, P(*axes))

def step(x, w, index):
    def layer(x, _):
        return jax.lax.with_sharding_constraint(x @ w, place("data", "model")), None
    x, _ = jax.lax.scan(layer, x, None, length=5)
    return jax.lax.switch(index, [lambda x: jnp.sum(x), lambda x: jnp.sum(jnp.sin(x), axis=0)[0]], x)

x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=place("data", "model"))
w = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=place(None, "model"))
compiled = jax.jit(step).lower(x, w, jax.ShapeDtypeStruct((), jnp.int32, sharding=place())).compile()
for c in collectives(parse_hlo(compiled.as_text())):
    axes = "+".join(mesh_axes(c.group, dict(mesh.shape)))
    print(c.kind, c.bytes, c.times, axes, c.branch.rpartition("/")[2] or "-")
print(memory_of(compiled).arguments)
"""


def test_a_real_programs_collectives_and_arguments_are_read() -> None:
    """Each of five turns gathers x [4 16] over the model axis; each branch of the switch reduces a scalar."""
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", REAL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, arguments = done.stdout.splitlines()
    assert f"all-gather {4 * 16 * 4} 5 model -" in lines
    reductions = [line.split() for line in lines if line.startswith("all-reduce")]
    assert {(axes, branch) for _, _, _, axes, branch in reductions} == {
        (axis, branch) for axis in ("data", "model") for branch in ("0", "1")
    }
    assert int(arguments) == (4 * 4 + 16 * 4 + 1) * 4
