"""`mrt5 serve`: a model behind HTTP, with a page to try it."""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mrt5_jax.cli.model_flags import add_model_arguments
from mrt5_jax.cli.user_modules import import_modules_of_user
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_path, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.serve.warm_model import WarmModel

TOKEN_VARIABLE = "MRT5_SERVE_TOKEN"
SHORTEST_TOKEN = 16
LIBRARIES = ("prometheus_client", "starlette", "uvicorn")
"""What the extra serve installs."""

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory allocating")
"""How JAX says it; on a CPU a running program says the second, as an internal error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for a model, where to listen, who may ask, and how much."""
    add_model_arguments(parser)
    parser.add_argument(
        "--deletion", choices=("hard", "soft", "none"), help="what the gate does (default: hard, where there is a gate)"
    )
    parser.add_argument("--input_length", type=int, help="longest input, in ids (default: the model's, or 1024)")
    parser.add_argument(
        "--max_target_length",
        type=int,
        help="longest target or output, end of sequence included (default: the model's, or 256)",
    )
    where = parser.add_argument_group("where to listen, and who may ask")
    where.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1, for this machine alone)")
    where.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    where.add_argument(
        "--token_file",
        type=given_path,
        metavar="FILE",
        help=f"whose first line requests have to bring as a token; or the environment variable {TOKEN_VARIABLE}",
    )
    where.add_argument("--no_token", action="store_true", help="let whoever reaches another host than this one ask")
    much = parser.add_argument_group("how much")
    much.add_argument("--batch_size", type=int, default=16, help="texts that are computed together (default: 16)")
    much.add_argument(
        "--max_rungs",
        type=int,
        default=4,
        help="lengths after the gate that each shape of batch is compiled for; more save more, and start later "
        "(default: 4)",
    )
    much.add_argument("--queue", type=int, default=256, help="texts that may wait; more are refused (default: 256)")
    much.add_argument("--max_seconds", type=int, default=60, help="for a request to be answered (default: 60)")
    much.add_argument("--max_body", type=int, default=1 << 20, help="bytes of a request's body (default: 1048576)")


def run(args: argparse.Namespace) -> int:
    """Compiles everything, then answers requests until it is asked to stop."""
    _check_numbers(args)
    import_modules_of_user(args.module)
    token = _token(args, os.environ.get(TOKEN_VARIABLE))
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {' and '.join(missing)}: pip install 'mrt5-jax[serve]'")

    from mrt5_jax.serve.app import Service, make_app
    from mrt5_jax.serve.guard import is_loopback
    from mrt5_jax.serve.limits import ServeLimits
    from mrt5_jax.serve.server import bound_socket, listen

    on_loopback = is_loopback(args.host)
    if not on_loopback and token is None and not args.no_token:
        raise UserError(
            f"--host={args.host}: others than this machine may reach it: give a token in {TOKEN_VARIABLE} or by "
            "--token_file=FILE, or let everybody in by --no_token"
        )
    if args.no_token:
        print(f"mrt5: without a token whoever reaches {args.host} can use the model", file=sys.stderr)
    limits = ServeLimits(
        body_bytes=args.max_body,
        texts=min(ServeLimits.texts, args.queue),
        waiting=args.queue,
        seconds=float(args.max_seconds),
    )
    with bound_socket(args.host, args.port) as bound:
        service = Service(_warm_model(args), limits)
        app = make_app(service, token, loopback_names_alone=on_loopback and token is None and not args.no_token)
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        listen(app, service, bound, lambda: print(f"listening on {address}", flush=True))
    print("stopped")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for flag in ("batch_size", "input_length", "max_target_length", "max_rungs", "queue", "max_seconds", "max_body"):
        value = getattr(args, flag)
        if value is not None and not 1 <= value < 1 << 31:
            raise UserError(f"--{flag}={value}: must be at least 1, and below {1 << 31}")
    if not 0 <= args.port < 1 << 16:
        raise UserError(f"--port={args.port}: must be from 0 to {(1 << 16) - 1}")


def _token(args: argparse.Namespace, in_environment: str | None) -> str | None:
    """What requests have to bring; it is printed nowhere."""
    if args.token_file is None and in_environment is None:
        return None
    place = TOKEN_VARIABLE if args.token_file is None else f"--token_file={args.token_file}"
    if args.no_token:
        raise UserError(f"--no_token, and a token in {place}: leave one of them out")
    if args.token_file is None:
        found = in_environment or ""
    elif in_environment is not None:
        raise UserError(f"{place}, and a token in {TOKEN_VARIABLE}: leave one of them out")
    else:
        with explained(args.token_file, "--token_file="):
            found = read_bytes(args.token_file).decode(errors="replace").partition("\n")[0].rstrip("\r")
    if not re.fullmatch(r"[!-~]+", found) or len(found) < SHORTEST_TOKEN:
        raise UserError(
            f"{place}: no token: give at least {SHORTEST_TOKEN} characters of ASCII without spaces, such as "
            "`openssl rand -hex 16` makes"
        )
    return found


def _warm_model(args: argparse.Namespace) -> "WarmModel":
    """The model with the flags on top of what its run says, everything compiled."""
    from mrt5_jax.api.loading import describe_model
    from mrt5_jax.cli.progress import watched
    from mrt5_jax.inference.run_defaults import execution_of
    from mrt5_jax.serve.warm_model import WarmModel

    described = describe_model(args.model_dir)
    prepared = described.prepare(
        deletion=args.deletion,
        threshold=args.threshold,
        execution=dataclasses.replace(execution_of(described.run), max_rungs=args.max_rungs),
        input_length=args.input_length,
        target_length=args.max_target_length,
    )
    print(f"reading {args.model_dir}", flush=True)
    with _explained_memory(args):
        warm = WarmModel(prepared.load(args.step), args.batch_size)
        print(f"compiling for {len(warm.shapes)} shapes of batches", flush=True)
        for shape in watched(warm.shapes, "shapes", len(warm.shapes), "compiling"):
            warm.compile(shape)
    return warm


@contextlib.contextmanager
def _explained_memory(args: argparse.Namespace) -> Iterator[None]:
    """Says in one line that the model, or a batch of it, is too large for the memory."""
    import jax

    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise UserError(
            f"{args.model_dir} does not fit into the memory with --batch_size={args.batch_size}: give a smaller one, "
            "a smaller --input_length or --max_target_length, or a smaller model"
        ) from None
