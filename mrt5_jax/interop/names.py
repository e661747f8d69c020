"""One table of every parameter: its name here, its axes, and its name in Hugging Face's T5.

Between files and the network's parameter tree lies one flat form, in which every layer has its own entry:
`encoder/layers_3/attention/query/kernel`. T5X's unscanned checkpoints use exactly these names; Hugging Face's follow
from the table; the network's tree stacks the layers (`stack_layers`, `unstack_layers`).
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.parameters import LAYERS, PREFIX, SUFFIX, Params
from mrt5_jax.selection.selectors import pools, selector_rule

_NAMES_IN_A_MESSAGE = 8


class Tensor(NamedTuple):
    """One parameter. Linear maps are [in, out] here and [out, in] in PyTorch, hence `orientation`."""

    name: str
    hugging_face: str
    axes: tuple[str | int, ...]
    """Names of sizes, or sizes."""
    orientation: Literal["same", "transposed", "convolution"] = "same"
    """convolution: [width * in, out] here, [out, in, width] in PyTorch."""

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of ours in Hugging Face's layout."""
        if self.orientation == "convolution":
            out = array.shape[1]
            return array.reshape(-1, out, out).transpose(2, 1, 0)
        return array.T if self.orientation == "transposed" else array

    def turned_back(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of Hugging Face's in our layout."""
        if self.orientation == "convolution":
            return array.transpose(2, 1, 0).reshape(-1, array.shape[0])
        return array.T if self.orientation == "transposed" else array


def _linear(name: str, hugging_face: str, *axes: str) -> Tensor:
    return Tensor(f"{name}/kernel", f"{hugging_face}.weight", axes, "transposed")


def _norm(name: str, hugging_face: str) -> Tensor:
    return Tensor(f"{name}/scale", f"{hugging_face}.weight", ("embed",))


def _attention(name: str, hugging_face: str) -> list[Tensor]:
    return [
        _linear(f"{name}/query", f"{hugging_face}.q", "embed", "joined_heads"),
        _linear(f"{name}/key", f"{hugging_face}.k", "embed", "joined_heads"),
        _linear(f"{name}/value", f"{hugging_face}.v", "embed", "joined_heads"),
        _linear(f"{name}/out", f"{hugging_face}.o", "joined_heads", "embed"),
    ]


def _mlp(name: str, hugging_face: str) -> list[Tensor]:
    return [
        _linear(f"{name}/wi_0", f"{hugging_face}.wi_0", "embed", "mlp"),
        _linear(f"{name}/wi_1", f"{hugging_face}.wi_1", "embed", "mlp"),
        _linear(f"{name}/wo", f"{hugging_face}.wo", "mlp", "embed"),
    ]


def _relative_bias(stack: str) -> Tensor:
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return Tensor(f"{stack}/relpos_bias/rel_embedding", table, ("heads", "buckets"), "transposed")


MODEL = [
    Tensor("token_embedder/embedding", "shared.weight", ("vocab", "embed")),
    _relative_bias("encoder"),
    _norm("encoder/encoder_norm", "encoder.final_layer_norm"),
    _relative_bias("decoder"),
    _norm("decoder/decoder_norm", "decoder.final_layer_norm"),
    _linear("decoder/logits_dense", "lm_head", "embed", "vocab"),
]
ENCODER_LAYER = [
    _norm("encoder/layers_{layer}/pre_attention_layer_norm", "encoder.block.{layer}.layer.0.layer_norm"),
    *_attention("encoder/layers_{layer}/attention", "encoder.block.{layer}.layer.0.SelfAttention"),
    _norm("encoder/layers_{layer}/pre_mlp_layer_norm", "encoder.block.{layer}.layer.1.layer_norm"),
    *_mlp("encoder/layers_{layer}/mlp", "encoder.block.{layer}.layer.1.DenseReluDense"),
]
DECODER_LAYER = [
    _norm("decoder/layers_{layer}/pre_self_attention_layer_norm", "decoder.block.{layer}.layer.0.layer_norm"),
    *_attention("decoder/layers_{layer}/self_attention", "decoder.block.{layer}.layer.0.SelfAttention"),
    _norm("decoder/layers_{layer}/pre_cross_attention_layer_norm", "decoder.block.{layer}.layer.1.layer_norm"),
    *_attention("decoder/layers_{layer}/encoder_decoder_attention", "decoder.block.{layer}.layer.1.EncDecAttention"),
    _norm("decoder/layers_{layer}/pre_mlp_layer_norm", "decoder.block.{layer}.layer.2.layer_norm"),
    *_mlp("decoder/layers_{layer}/mlp", "decoder.block.{layer}.layer.2.DenseReluDense"),
]
GATE_NORM = _norm("encoder/gate/norm", "encoder.block.{layer}.delete_gate.layer_norm")
GATE = [
    _linear("encoder/gate", "encoder.block.{layer}.delete_gate.feed_forward", "embed", "one"),
    Tensor("encoder/gate/bias", "encoder.block.{layer}.delete_gate.feed_forward.bias", ("one",)),
]


CONVOLUTION = [
    _norm("encoder/pooling/norm", "encoder.block.{layer}.down_ln"),
    Tensor(
        "encoder/pooling/kernel",
        "encoder.block.{layer}.downsampling_module.conv.weight",
        ("window", "embed"),
        "convolution",
    ),
    Tensor("encoder/pooling/bias", "encoder.block.{layer}.downsampling_module.conv.bias", ("embed",)),
]
"""Of a convolution over windows."""


def _at(layer: int, tensors: Iterable[Tensor]) -> list[Tensor]:
    return [
        tensor._replace(name=tensor.name.format(layer=layer), hugging_face=tensor.hugging_face.format(layer=layer))
        for tensor in tensors
    ]


def _of_selector(name: str, size: tuple[int, ...], gate: GateConfig) -> Tensor:
    """A parameter that a selector's rule names; Hugging Face's T5 has no name for it, so it gets one of ours."""
    foreign = f"encoder.block.{gate.layer}.{gate.kind}.{name.replace('/', '.')}"
    return Tensor(f"encoder/gate/{name}", foreign, size, "transposed" if name.endswith("kernel") else "same")


def gate_tensors(config: ModelConfig) -> list[Tensor]:
    """Returns the parameters of a selector and of a convolution; other reductions have none."""
    if config.gate is None:
        return []
    rule = selector_rule(config.gate)
    if rule.parameters is not None:
        return [_of_selector(name, size, config.gate) for name, size in rule.parameters(config).items()]
    if pools(config.gate):
        return _at(config.gate.layer, CONVOLUTION if config.gate.reduction == "convolution" else [])
    if not rule.is_steered:
        return []
    return _at(config.gate.layer, [GATE_NORM, *GATE] if config.gate.layer_norm else GATE)


def tensors(config: ModelConfig) -> list[Tensor]:
    """Returns every parameter of a model of this config, one entry a layer."""
    encoder = [tensor for layer in range(config.num_encoder_layers) for tensor in _at(layer, ENCODER_LAYER)]
    decoder = [tensor for layer in range(config.num_decoder_layers) for tensor in _at(layer, DECODER_LAYER)]
    return [*MODEL, *encoder, *gate_tensors(config), *decoder]


def shape(tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    """Returns the parameter's shape here, [in, out] for linear maps."""
    sizes = {
        "vocab": config.vocab_size,
        "embed": config.emb_dim,
        "mlp": config.mlp_dim,
        "heads": config.num_heads,
        "joined_heads": config.num_heads * config.head_dim,
        "buckets": config.relpos_num_buckets,
        "one": 1,
        "window": config.emb_dim * (config.gate.stride if config.gate else 1),
    }
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)


def check_complete(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], place: str) -> None:
    """Raises a UserError that names what is missing, left over or of another shape; `place` is where it was found."""
    missing = [name for name in expected if name not in found]
    left_over = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name])} and should be {list(size)}"
        for name, size in expected.items()
        if name in found and tuple(found[name]) != tuple(size)
    ]
    complaints = {"missing": missing, "left over": left_over, "wrong shape": misshapen}
    lines = [f"{kind}: {_enumerate(names)}" for kind, names in complaints.items() if names]
    if lines:
        raise UserError(f"{place} does not hold the parameters of its sizes: {'; '.join(lines)}")


def _enumerate(names: list[str]) -> str:
    more = len(names) - _NAMES_IN_A_MESSAGE
    return ", ".join(names[:_NAMES_IN_A_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def _place(name: str, config: ModelConfig) -> tuple[tuple[str, ...], int | None]:
    """Returns where a flat entry lies in the network's tree: its path, and for stacked layers its index on axis 0."""
    stack, group, *rest = name.split("/")
    if not group.startswith("layers_"):
        return (stack, group, *rest), None
    layer = int(group.removeprefix("layers_"))
    if stack == "decoder":
        return (stack, LAYERS, *rest), layer
    boundary = config.num_encoder_layers if config.gate is None else config.gate.layer
    if layer < boundary:
        return (stack, PREFIX, *rest), layer
    return (stack, SUFFIX, *rest), layer - boundary


def stack_layers(flat: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Returns the network's parameter tree of a flat form; `flat` has exactly the names of `tensors(config)`.

    Scanned stacks have their layers on axis 0; a gate divides the encoder's into `prefix` and `suffix`.
    """
    stacks: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    params: Params = {}
    for tensor in tensors(config):
        path, layer = _place(tensor.name, config)
        if layer is None:
            assign(params, path, np.array(flat[tensor.name]))
        else:
            stacks.setdefault(path, {})[layer] = flat[tensor.name]
    for path, layers in stacks.items():
        assign(params, path, np.stack([layers[layer] for layer in range(len(layers))]))
    return params


def empty_layers(config: ModelConfig) -> Params:
    """Returns a parameter tree without values, to be filled through the arrays that `unstack_layers` gives of it."""
    depths: dict[tuple[str, ...], int] = {}
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {}
    for tensor in tensors(config):
        path, layer = _place(tensor.name, config)
        shapes[path] = shape(tensor, config)
        if layer is not None:
            depths[path] = max(layer + 1, depths.get(path, 0))
    params: Params = {}
    for path, size in shapes.items():
        assign(params, path, np.empty((depths[path], *size) if path in depths else size, np.float32))
    return params


def assign(params: Params, path: tuple[str, ...], value: np.ndarray) -> None:
    """Puts an array into a parameter tree, whose folders are made on the way."""
    parent = functools.reduce(lambda node, key: node.setdefault(key, {}), path[:-1], params)
    parent[path[-1]] = value


def unstack_layers(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the flat form of a parameter tree, the inverse of `stack_layers`.

    Raises:
        UserError: the tree is not that of this config.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in _leaves(params)}
    places = {tensor.name: _place(tensor.name, config) for tensor in tensors(config)}
    depth = {}
    for path, layer in places.values():
        depth[path] = None if layer is None else max(layer + 1, depth.get(path, 0))
    expected = {}
    for tensor in tensors(config):
        path, _ = places[tensor.name]
        stacked = () if depth[path] is None else (depth[path],)
        expected["/".join(path)] = (*stacked, *shape(tensor, config))
    check_complete({"/".join(path): leaf.shape for path, leaf in leaves.items()}, expected, "the model's parameters")
    return {name: leaves[path] if layer is None else leaves[path][layer] for name, (path, layer) in places.items()}


def _leaves(params: Params, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _leaves(dict(value), (*path, key))
        else:
            yield (*path, key), value
