"""Everything a run is made of, as frozen dataclasses: no logic, no defaults that depend on the machine.

The command line resolves gin into one `RunConfig`; everything below the command line takes these objects. The same
values, as JSON, lie in a model directory (`model_config.json`), so a model can be read without gin.
"""

import dataclasses
from typing import Literal

Deletion = Literal["none", "soft", "hard", "random"]
"""How a forward pass deletes.

none: the gate is ignored. soft: gate values are added to the attention scores (the paper's training). hard: deleted
positions are removed and the survivors attend without a bias (the paper's inference). random: hard, but as many
positions as the gate deletes in a row are chosen at random instead; a baseline for evaluation.
"""

TrainingDeletion = Literal["none", "soft", "hard", "saturated"]
"""The deletions that training offers.

saturated: soft deletion's loss and gradients at nearly hard deletion's cost. Positions whose gate value lies so far
below their row's highest that no attention can see them are removed; the others keep their gate values.
"""

Auto = Literal["auto"]
"""Decided while the run goes on, by what the gate does and what that would save (docs/COMPACTION.md)."""

Dispatch = Literal["in_graph", "host"]
"""Who chooses the static length after the gate.

in_graph: one program holds all of them and chooses. host: each is a program of its own, and the host reads the kept
counts between them; memory is that of the length that runs.
"""

Remat = Literal["none", "full", "dots"]
"""What the backward pass recomputes in each layer: nothing, everything, or all but what projections give."""

RowsInParts = Literal["as_they_come", "sorted"]
"""Which rows of a batch a microbatch holds; sorted: by what they keep."""

DeviceRows = Literal["as_they_come", "dealt"]
"""Which rows of a batch a device has; dealt: the k-th rows of all devices are alike in what is expected to be kept."""

AttentionRows = Literal["auto", "batched", "one_by_one"]
"""How attention runs over a batch; auto: one by one on a single CPU device if rows are long, batched elsewhere."""


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """The delete gate at the input of encoder block `layer` (MrT5 section 3.1)."""

    layer: int = 3
    kind: str = "learned"
    """The selector: a name of the table in `selection.selectors`."""
    scale: float = -30.0
    """k: gate values lie in (k, 0); 0 keeps, k deletes."""
    threshold: float | None = None
    """tau: hard deletion keeps positions with gate value > tau. None: the selector's own, of a learned gate k / 2."""
    layer_norm: bool = True
    bias_init: float = 1.0
    """c: the initial bias of the gate logit; positive keeps."""
    gumbel_noise: bool = False
    """Whether training adds Gumbel noise to the gate logits."""
    deletion_probability: float = 0.5
    """Random and fixed selectors: the share of positions to delete."""
    stride: int = 4
    """r: the selector every_kth keeps every r-th position and merges the others into it."""
    reduction: Literal["segment_mean", "convolution"] = "segment_mean"
    """What a slot holds of the positions that a selector merges into it."""
    drop_tail: bool = False
    """As in the authors' code, a tail shorter than the stride is dropped, and a convolution reads pads as they are."""
    settings: tuple[tuple[str, float | str], ...] = ()
    """Of one selector alone, by their names in its file: (('prior', 0.2), ('temperature', 0.5)). What is not named has
    its default (docs/schemes.md)."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and numerics of ByT5 (`gate=None`) or MrT5; names follow T5X."""

    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    vocab_size: int = 384
    gate: GateConfig | None = None
    softmax1: bool = False
    """Attention weights e^s / (1 + sum e^s) in every attention of encoder and decoder."""
    dropout_rate: float = 0.1
    relpos_num_buckets: int = 32
    relpos_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initialization: Literal["t5", "reference"] = "t5"
    """Scratch initialisation: T5's own, or that of the authors' diagnostic models (blocks scaled by layers^-1/2)."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Activations. Softmax, gate and losses stay at least float32."""
    param_dtype: Literal["float32", "float64"] = "float32"


@dataclasses.dataclass(frozen=True)
class CompactionConfig:
    """Which positions training removes, besides those that a gate deletes."""

    capacity: float | None = None
    """The share of the input length that a row may keep, rounded up to ExecutionConfig.rounding when a run begins.
    Where it is too short the positions with the lowest priority are dropped, and counted. None: nothing is."""
    saturation_threshold: float = -20.0
    """Saturated deletion removes positions whose gate value is lower than their row's highest by more than this."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a run reads: names of registered tasks or mixtures, and the static batch shape."""

    train_task: str
    eval_tasks: tuple[str, ...]
    input_length: int
    target_length: int
    batch_size: int
    eval_batch_size: int
    shuffle: bool = True
    rows: Literal["one_a_row", "packed"] = "one_a_row"
    """Whether a row of a training batch is one example, or as many as fit, told apart by segment ids."""
    length_buckets: tuple[int, ...] = ()
    """Input lengths that batches may have, in training and evaluation, the longest being `input_length`: examples of
    similar length come together. None makes all batches `input_length` long."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Terms added to the cross-entropy (REFERENCE: MrT5 section 3.2)."""

    z_loss: float = 0.0
    score_penalty: float = 0.0
    """beta: weight of mean(max(s, 5) - 5) over attention scores that see the gate."""
    gate_weight: float = 0.0
    """alpha, where no controller sets it: weight of the mean gate value."""
    penalties: tuple[tuple[str, float], ...] = ()
    """Weights of a selector's other penalties, by their names."""
    regularizer_delay: int = 0
    """Steps during which alpha is left out and the controller rests."""


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
    """Steers alpha towards a target deletion rate, by a law of the table in `objectives.controllers`."""

    target_deletion_rate: float
    """Of a selector whose penalty holds a target by itself, that target; nothing else is read then."""
    proportional_gain: float = 0.5
    """This and the next two: of the one-sided law."""
    integral_gain: float = 1e-5
    smoothing: float = 0.9
    kind: Literal["one_sided", "two_sided"] = "one_sided"
    """one_sided: the paper's PI controller, which can only push the rate up (MrT5 section 3.3). two_sided: pushes and
    pulls, finds its gain by itself, and leads the rate to its target over the first third of the run."""
    language_targets: tuple[tuple[str, float], ...] = ()
    """Languages with targets and controllers of their own, as in (('en', 0.5), ('zh', 0.3)); all others together are
    steered towards target_deletion_rate. Of the two-sided law."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Adafactor, and the schedule of the learning rate."""

    name: Literal["adamw", "adafactor"] = "adamw"
    """adafactor: with T5's settings, in which the learning rate is relative to each parameter's size."""
    learning_rate: float = 1e-4
    gate_learning_rate: float | None = None
    """Peak learning rate of the delete gate's parameters; None: `learning_rate`."""
    schedule: str = "linear"
    """Decay after warm-up: to zero at the last step (linear, cosine), by step^-1/2 (rsqrt) or not at all (constant);
    or a product of T5X's factors, such as 'constant * linear_warmup * rsqrt_decay'."""
    warmup_steps: int = 0
    decay_factor: float = 0.5
    """T5X's factors linear_decay (slope) and decay_every (multiplier)."""
    steps_per_decay: int = 20_000
    """T5X's factor decay_every."""
    steps_per_cycle: int = 100_000
    """T5X's factor cosine_decay."""
    weight_decay: float = 0.0
    weight_decay_exclude: tuple[str, ...] = ("scale", "bias", "rel_embedding", "gate")
    """Parameters that have one of these names in their path do not decay."""
    freeze: tuple[str, ...] = ()
    """Parameters that have one of these names in their path do not train, and have no optimizer state."""
    clip_norm: float | None = 1.0
    """Global norm that gradients are scaled down to; those of frozen parameters do not count."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 1000
    keep: int = 3
    """So many of the newest."""
    keep_period: int | None = None
    """And every one whose step is a multiple of this."""
    keep_best: int = 1
    """And so many of the lowest cross-entropy under hard deletion."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 fills with what is left of the devices. The data axis spans TPU slices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: tuple[tuple[str, str], ...] = ()
    """Pairs of a logical axis and mesh axes, as in (('mlp', 'fsdp+tensor'), ('embed', '')), that replace the built-in
    rules of these names (parallel/axis_rules.py)."""


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
    """How a run computes what it computes. A resume may change all of it: metrics then agree to rounding."""

    dispatch: Dispatch = "in_graph"
    """Of training. Its evaluations are in_graph."""
    inference_dispatch: Dispatch = "host"
    """Of `mrt5 eval` and `mrt5 infer`."""
    microbatches: int = 1
    """Parts that a batch is computed in, one after another; gradients are those of the whole batch."""
    remat: Remat = "none"
    scan_unroll: int = 1
    """Layers of a stack in one turn of its loop. More of them save copies, a sixth of a step on a CPU, and compile
    longer."""
    attention_rows: AttentionRows = "auto"
    rungs: tuple[int, ...] | None = None
    """Lengths after the gate, increasing; the input length comes on top of them. None: by rounding and max_rungs."""
    rounding: int | None = None
    """Rungs are multiples of this. None: at most the backend's (128 on TPU, 64 elsewhere) and a share of the length (an
    eighth on TPU, a sixteenth elsewhere), and only rungs that save at least 8 positions and about a sixteenth of the
    work after the gate over the next longer one."""
    max_rungs: int | None = None
    """None: 8 where one program holds them all (in_graph), 16 where each is a program of its own (host)."""
    chunks: int | Auto = 1
    """Each device sorts its rows, of each microbatch, by kept count and cuts them into so many chunks, each with its
    own length. auto: in training one of at most three numbers, whichever is expected to cost least; elsewhere one.
    `mrt5 infer` has a flag for it."""
    microbatch_rows: RowsInParts = "as_they_come"
    """sorted: over a device's rows of the whole batch, so that a microbatch has rows that are alike; the layers before
    the gate run twice for it. Chunks that are "auto" decide this as well."""
    device_rows: DeviceRows | Auto = "auto"
    """dealt: a training batch's rows are sorted by what is expected to be kept of them, by their language and bytes,
    and dealt to the devices, so that the chunks of all devices are alike (docs/COMPACTION.md). auto: where that can
    save something, on several devices and in several chunks or microbatches."""
    window: int | None = None
    """Batches of `mrt5 eval` and `mrt5 infer` whose rows are sorted by kept count together and cut into as many full
    batches, each with its own length; their rows at the gate lie in memory at once. 1: each batch by itself. None: 32,
    or as many as a quarter of the memory holds. `mrt5 infer` has a flag for it."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    mesh: MeshConfig = MeshConfig()


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length and rhythm of training."""

    num_steps: int
    deletion: TrainingDeletion | Auto = "soft"
    """auto: soft until saturated deletion saves something, then saturated; none in a model without a gate."""
    hard_probability: float = 0.0
    """Share of the steps that delete hard instead; it keeps soft and hard deletion's losses together."""
    seed: int = 0
    eval_every: int = 1000
    eval_batches: int = 8
    """Batches of every evaluation task seen by each training evaluation."""
    max_refused_steps: int = 5
    """Steps in a row that may be refused, because their gradient is not finite, before the run stops."""
    profile_steps: tuple[int, int] | None = None
    """First and last step that jax.profiler traces, into MODEL_DIR/profile."""


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
    """Compares saturated with soft deletion while training, and leaves saturated deletion off while they differ."""

    interval: int = 100
    """Steps between two comparisons; what is "auto" is decided anew as often, before them."""
    tolerance: float = 1e-4
    """Relative difference of the two losses above which training goes on with soft deletion."""
    hysteresis: float = 0.5
    """Saturated deletion comes back when the difference is at most this share of the tolerance."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What `mrt5 eval` measures."""

    deletions: tuple[Deletion, ...] = ("soft", "hard")
    num_examples: int | None = None
    """Examples of every task; None: all of them."""
    capacity: float | None = None
    """Of `mrt5 eval` and `mrt5 infer`: the share of the input length that a row may keep. None: nothing is dropped."""
    seed: int = 0
    """Of the random deletions."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run; what gin configures."""

    model_dir: str
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    loss: LossConfig = LossConfig()
    controller: ControllerConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    compaction: CompactionConfig = CompactionConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    execution: ExecutionConfig = ExecutionConfig()
    monitor: MonitorConfig = MonitorConfig()
    """Of runs that may delete by saturation. Its interval also serves chunks that are "auto"."""
    evaluation: EvaluationConfig = EvaluationConfig()
    warm_start: str | None = None
    """A MODEL_DIR whose parameters training begins with, as far as they fit; trained or imported."""
