"""`mrt5 train`: a configuration in, a MODEL_DIR out."""

import argparse

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.process_flags import add_process_arguments, join_others
from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's flags."""
    gin_setup.add_arguments(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the configuration, where every parameter would lie, what a step would cost; change nothing",
    )
    parser.add_argument(
        "--topology",
        metavar="DEVICES",
        help="with --dry_run: compile the step for devices that need not be here, v5e:16x16 or cpu:8; or local",
    )
    parser.add_argument(
        "--kept",
        metavar="FILE",
        help="with --dry_run: a file of kept lengths, language<TAB>inputs<TAB>kept; print how much of their saving "
        "remains on the devices. Without it: of what MODEL_DIR's run has seen so far",
    )
    parser.add_argument(
        "--start_over",
        action="store_true",
        help="where MODEL_DIR's checkpoints are lost or damaged, all of them: move what is left to MODEL_DIR/set_aside "
        "and begin at step 0; without effect where one is whole",
    )
    add_process_arguments(parser, "one on every host, or on every GPU; all are given the same other flags")


def run(args: argparse.Namespace) -> int:
    """Trains, or says what would be trained."""
    resolved = gin_setup.resolve_arguments(args)
    resolved.check()
    if args.dry_run:
        dry_run(resolved, args.topology, args.kept)
        return 0
    if args.topology:
        raise UserError("--topology goes with --dry_run: training runs on the devices there are")
    if args.kept:
        raise UserError("--kept goes with --dry_run: training counts itself what its rows keep")
    join_others(args)
    import jax

    from mrt5_jax.api.runs import train

    train(resolved.run, config_text=resolved.config_text, accepted=resolved.print_notes, start_over=args.start_over)
    if jax.process_index() == 0:
        print(f"trained to step {resolved.run.training.num_steps}: {resolved.run.model_dir}")
    return 0


def dry_run(resolved: gin_setup.Resolved, topology: str | None, kept: str | None = None) -> None:
    """Prints the configuration, where the run would lie and, for a topology, what its compiler makes of the step."""
    from mrt5_jax.tools.dealing_report import dealing_report
    from mrt5_jax.tools.dry_run import compile_step, plan_run
    from mrt5_jax.tools.dry_run_report import compilation_report, plan_report
    from mrt5_jax.tools.topology import LOCAL, topology_of

    plan = plan_run(resolved.run, topology_of(topology or LOCAL))
    resolved.print_notes()
    print(resolved.config_text)
    print(f"# {num_parameters(resolved.run.model):,} parameters")
    print(plan_report(plan), flush=True)
    if report := dealing_report(resolved.run, plan, kept):
        print(report, flush=True)
    if topology is not None:
        print(compilation_report(compile_step(resolved.run, plan), plan))


def num_parameters(model: ModelConfig) -> int:
    """Counts the parameters of a model of any size without making them."""
    import jax
    import jax.numpy as jnp

    from mrt5_jax.model.encoder_decoder import MrT5

    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    variables = jax.eval_shape(MrT5(model).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
