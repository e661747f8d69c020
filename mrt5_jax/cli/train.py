"""`mrt5 train`: a configuration in, a MODEL_DIR out."""

import argparse
import sys

from mrt5_jax.cli import gin_setup
from mrt5_jax.config import ModelConfig
from mrt5_jax.validation import validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """T5X's flags."""
    gin_setup.add_arguments(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the whole configuration and the model's size; change nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, or says what would be trained."""
    resolved = gin_setup.resolve_arguments(args)
    validate(resolved.run)
    if args.dry_run:
        print(resolved.config_text)
        print(f"# {num_parameters(resolved.run.model):,} parameters")
        return 0
    from mrt5_jax.training.loop import train
    from mrt5_jax.training.preemption import PREEMPTED_EXIT_CODE, Preempted

    try:
        train(resolved.run, resolved.config_text)
    except Preempted as stopped:
        print(f"mrt5: {stopped}", file=sys.stderr)
        return PREEMPTED_EXIT_CODE
    print(f"trained to step {resolved.run.training.num_steps}: {resolved.run.model_dir}")
    return 0


def num_parameters(model: ModelConfig) -> int:
    """Counts the parameters of a model of any size without making them."""
    import jax
    import jax.numpy as jnp

    from mrt5_jax.network import MrT5

    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    variables = jax.eval_shape(MrT5(model).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
