"""The flags that name a model, of the commands that use one."""

import argparse

from mrt5_jax.runs.files import given_path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model_dir, --step and --threshold, which are the arguments of `mrt5_jax.load`, and --module."""
    parser.add_argument(
        "--model_dir",
        required=True,
        type=given_path,
        metavar="MODEL",
        help="what train or convert wrote, a Hugging Face folder, OWNER/NAME on its hub, or toy, which comes with "
        "the package",
    )
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="G",
        help="keep positions with gate values above it (default: what `mrt5 eval --store_threshold` has left, or the "
        "trained one)",
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a Python module with the model's selector, if that is yours, in the working directory or on PYTHONPATH",
    )
