"""Arrays lie where the mesh and the logical names say, and the mesh changes no value."""

import dataclasses
import json
import logging
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from mrt5_jax.config import MeshConfig
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.axis_rules import LOGICAL_AXIS_RULES, MESH_AXES, axis_rules
from mrt5_jax.parallel.batches import _row_groups, _row_shares, check_batch_size, put_batch
from mrt5_jax.parallel.mesh import make_mesh, on_mesh
from mrt5_jax.parallel.shardings import param_shardings
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, init_sharded

OPTIMIZER = optax.scale_by_adam()


class Toy(nn.Module):
    """A scanned kernel, a table whose rows no mesh of ours divides, and a norm."""

    @nn.compact
    def __call__(self):
        named = nn.with_logical_partitioning
        self.param("wi", named(nn.initializers.uniform(), ("layers", "embed", "mlp")), (3, 8, 16))
        self.param("bias", named(nn.initializers.zeros, ("heads", "relpos_buckets")), (3, 32))
        self.param("scale", named(nn.initializers.ones, ("embed",)), (8,))


def make_state(key) -> TrainState:
    params = Toy().init(key)["params"]
    return TrainState(jnp.int32(0), params, OPTIMIZER.init(params), {"alpha": jnp.float32(0)})


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_sharded_state_is_that_of_one_device(config, shape, eight_devices):
    result = eight_devices[json.dumps([config.data, config.fsdp, config.tensor])]
    assert tuple(result["shape"]) == shape
    assert result["same_as_one_device"]
    _, fsdp, tensor = shape
    assert result["wi_on_a_device"] == [3, 8 // fsdp, 16 // tensor]
    assert result["mu_on_a_device"] == result["wi_on_a_device"]
    assert result["bias_on_a_device"] == [3, 32]
    assert result["batch_on_a_device"] == [8 // (shape[0] * fsdp), 5]
    assert result["restored_from_another_mesh"]


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory) -> dict:
    """What three meshes of eight simulated devices do; one process, since the number of devices is a process's own."""
    folder = tmp_path_factory.mktemp("checkpoints")
    code = f"""
import json, os
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
import sys; sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
import jax, numpy as np
from test_mesh import make_state
from mrt5_jax.config import CheckpointConfig, MeshConfig
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.training.state_shardings import abstract_state, init_sharded
from mrt5_jax.parallel.mesh import make_mesh, on_mesh
from mrt5_jax.parallel.batches import put_batch

single, results = init_sharded(make_state, make_mesh(MeshConfig(), jax.devices()[:1]), jax.random.key(0)), {{}}
with Checkpoints({str(folder)!r}, CheckpointConfig(), 0) as checkpoints:
    for sizes in ([-1, 1, 1], [1, -1, 2], [2, 2, 2]):
        mesh = make_mesh(MeshConfig(*sizes))
        with on_mesh(mesh, MeshConfig()):
            state = init_sharded(make_state, mesh, jax.random.key(0))
            abstract = abstract_state(make_state, mesh, jax.random.key(0))
        if not results:
            checkpoints.save(state, {{}})
            checkpoints.wait()
        restored = checkpoints.restore_or_init(abstract, lambda: None).state
        equal = lambda a, b: bool((np.asarray(a) == np.asarray(b)).all())
        where_wanted = jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, abstract)
        local = lambda array: list(array.addressable_shards[0].data.shape)
        results[json.dumps(sizes)] = {{
            "shape": list(mesh.devices.shape),
            "same_as_one_device": all(jax.tree.leaves(jax.tree.map(equal, state, single))),
            "wi_on_a_device": local(state.params["wi"]),
            "mu_on_a_device": local(state.opt_state.mu["wi"]),
            "bias_on_a_device": local(state.params["bias"]),
            "batch_on_a_device": local(put_batch({{"x": np.zeros((8, 5), np.int32)}}, mesh)["x"]),
            "restored_from_another_mesh": all(jax.tree.leaves((jax.tree.map(equal, restored, single), where_wanted))),
        }}
print(json.dumps(results))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=2), "data=2 x fsdp=1 x tensor=1 does not fit 1 device"),
        (MeshConfig(tensor=3), "must multiply to 1"),
        (MeshConfig(data=-1, fsdp=-1), "at most one is -1"),
        (MeshConfig(data=0), "sizes are positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        make_mesh(config)
    assert "\n" not in str(error.value)


def test_rules_of_a_run_take_the_place_of_the_built_in_ones():
    rules = dict(axis_rules(MeshConfig(rules=(("mlp", "fsdp+tensor"), ("embed", "")))))
    assert (rules["mlp"], rules["embed"], rules["heads"]) == (("fsdp", "tensor"), None, "tensor")
    assert dict(axis_rules(MeshConfig())) == dict(LOGICAL_AXIS_RULES)
    mesh = make_mesh(MeshConfig())
    boxed = jax.eval_shape(make_state, jax.random.key(0)).params
    with on_mesh(mesh, MeshConfig(rules=(("mlp", "fsdp+tensor"), ("embed", "")))):
        changed = param_shardings(boxed, mesh)["wi"].spec
    assert changed == PartitionSpec(None, None, ("fsdp", "tensor"))
    assert param_shardings(boxed, mesh)["wi"].spec == PartitionSpec(None, "fsdp", "tensor")


@pytest.mark.parametrize("rule", [("mpl", "fsdp"), ("mlp", "model"), ("batch", "tensor"), ("mlp", "tensor+tensor")])
def test_a_rule_of_axes_that_are_not_there_is_refused_with_the_mesh(rule):
    """Before anything is written to MODEL_DIR."""
    with pytest.raises(UserError) as error:
        make_mesh(MeshConfig(rules=(rule,)))
    assert str(error.value).startswith(f"config.MeshConfig.rules: {rule!r} should be")


def test_slices_need_a_data_axis_that_spans_them():
    devices = [SliceDevice(number, number // 2, slice_index=number // 4) for number in range(8)]
    with pytest.raises(UserError, match="give data a multiple of 2"):
        make_mesh(MeshConfig(data=1, fsdp=8), devices)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch_size=8 does not divide .* a multiple of 6"):
        check_batch_size(8, AbstractMesh((2, 3, 1), MESH_AXES), "batch_size")
    check_batch_size(12, AbstractMesh((2, 3, 1), MESH_AXES), "batch_size")


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh and the sharing of rows look at."""

    id: int
    process_index: int
    platform: str = "cpu"


@dataclasses.dataclass(frozen=True)
class SliceDevice(Device):
    slice_index: int = 0


def mesh_of_processes(processes: list[int], shape: tuple[int, int, int]) -> Mesh:
    """`processes`: of every device, in the order of the mesh."""
    devices = [Device(number, process) for number, process in enumerate(processes)]
    return Mesh(np.array(devices).reshape(shape), MESH_AXES)


@pytest.mark.parametrize(
    ("processes", "shape", "groups", "shares"),
    [
        ([0, 0, 1, 1], (4, 1, 1), [(0, 1), (2, 3)], {0: (0, 2), 1: (1, 2)}),
        ([1, 0, 1, 0], (2, 2, 1), [(0, 2), (1, 3)], {1: (0, 2), 0: (1, 2)}),
        ([0, 0, 1, 1], (2, 1, 2), [(0,), (1,)], {0: (0, 2), 1: (1, 2)}),
        ([0, 0, 1, 1], (1, 1, 4), [(0,)], {0: (0, 1), 1: (0, 1)}),
    ],
)
def test_processes_read_what_their_devices_need(processes, shape, groups, shares):
    """Also where the mesh does not follow the processes, and where a tensor axis spans two of them."""
    mesh = mesh_of_processes(processes, shape)
    assert _row_groups(mesh) == groups
    assert {process: tuple(share) for process, share in _row_shares(mesh).items()} == shares


def test_processes_that_would_share_some_rows_only_are_refused():
    with pytest.raises(UserError, match="share some of their rows only"):
        _row_groups(mesh_of_processes([0, 0, 0, 1, 1, 1], (3, 1, 2)))


def test_a_name_without_a_rule_is_an_error():
    boxed = {"kernel": nn.LogicallyPartitioned(jnp.ones((2, 2)), names=("embed", "mpl"))}
    with pytest.raises(ValueError, match=r"kernel.*no rule.*mpl"):
        param_shardings(boxed, make_mesh(MeshConfig()))


def test_one_device_is_a_mesh_too(caplog):
    mesh = make_mesh(MeshConfig())
    with caplog.at_level(logging.WARNING):
        state = init_sharded(make_state, mesh, jax.random.key(0))
    assert not caplog.records
    assert state.params["wi"].sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    abstract = abstract_state(make_state, mesh, jax.random.key(0))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding), state, abstract)
    assert all(jax.tree.leaves(same))
    batch = {"encoder_input_tokens": np.arange(6, dtype=np.int32).reshape(2, 3)}
    np.testing.assert_array_equal(put_batch(batch, mesh)["encoder_input_tokens"], batch["encoder_input_tokens"])
