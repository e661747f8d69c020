"""`mrt5 COMMAND ...`: finds the command, reads its flags, and turns a user's mistake into one line and exit code 2."""

import argparse
import dataclasses
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mrt5_jax import __version__
from mrt5_jax.compilation_cache import keep_compiled_programs
from mrt5_jax.errors import PREEMPTED_EXIT_CODE, Preempted, UserError
from mrt5_jax.host_memory import reuse_host_memory
from mrt5_jax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Command:
    """A line of `mrt5 --help`. The command itself is `mrt5_jax.cli.<name>`, imported when it is called.

    The module has `add_arguments(parser: argparse.ArgumentParser) -> None` and
    `run(args: argparse.Namespace) -> int`, the exit code.
    """

    help: str
    example: str


COMMANDS = {
    "quickstart": Command(
        "train a tiny MrT5 on vowel removal, and show what it deletes: minutes on two cores",
        "mrt5 quickstart",
    ),
    "train": Command(
        "train a model, or go on where its MODEL_DIR stands",
        """mrt5 train --gin_file=runs/quickstart.gin --gin.MODEL_DIR="'runs/vowels'\"""",
    ),
    "eval": Command(
        "measure a trained model on its tasks, under each deletion",
        "mrt5 eval --model_dir=runs/vowels",
    ),
    "infer": Command(
        "score targets or generate them, JSON lines in, JSON lines out",
        "mrt5 infer --model_dir=runs/vowels --input=in.jsonl --output=out.jsonl",
    ),
    "inspect": Command(
        "show which bytes of a text the gate deletes",
        "mrt5 inspect --model_dir=runs/vowels --text='#HelloWorld'",
    ),
    "report": Command(
        "write one page with charts, tables and texts of trained models",
        "mrt5 report runs/byt5 runs/mrt5 --out=report",
    ),
    "serve": Command(
        "answer over HTTP, with a page to try a model",
        "mrt5 serve --model_dir=runs/vowels",
    ),
    "data": Command(
        "list tasks, show and count their examples, unpack and make data",
        "mrt5 data show diagnostics.merge_abc",
    ),
    "convert": Command(
        "exchange weights with Hugging Face and T5X",
        "mrt5 convert hf-import byt5-small runs/byt5_small",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the words after `mrt5`; those of this process where None.

    Returns:
      The exit code: 0; 2 where the user gave something that cannot be used; 75 where a run was asked to stop and has
      saved its state; 130 after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # results come out whatever the terminal can show
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"mrt5: {error}", file=sys.stderr)
        return 2
    except Preempted as stopped:
        if _is_first_process():
            print(f"mrt5: {stopped}", file=sys.stderr)
        return PREEMPTED_EXIT_CODE
    except KeyboardInterrupt:
        print("mrt5: interrupted", file=sys.stderr)
        return 130


def entry_point() -> NoReturn:
    """Runs `mrt5`: what the installed script calls."""
    reuse_host_memory()
    keep_compiled_programs()
    sys.exit(main())


def _is_first_process() -> bool:
    import jax  # a run that was asked to stop has imported it long ago

    return jax.process_index() == 0


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"mrt5 {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise UserError(f"there is no command {name}{nearest(name, COMMANDS)} (mrt5 --help lists them)")
    module = importlib.import_module(f"mrt5_jax.cli.{name}")
    arguments = _parse(name, module, argv[1:])
    return 0 if arguments is None else module.run(arguments)


def _parse(name: str, module: Any, words: list[str]) -> argparse.Namespace | None:
    """The command's flags; None where its help was asked for, and printed."""
    parser = _Parser(
        prog=f"mrt5 {name}",
        description=COMMANDS[name].help,
        epilog=f"example:\n  {COMMANDS[name].example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    try:
        arguments = parser.parse_args([word for word in words if not word.startswith("--gin.")])
    except SystemExit:
        return None
    if bindings:
        if not hasattr(arguments, "gin_bindings"):
            raise UserError(f"{name} takes no gin flags such as --gin.{bindings[0]}")
        arguments.gin_bindings = bindings
    return arguments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help explains)")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        namespace, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            flag = unknown[0].partition("=")[0]
            raise UserError(
                f"{self.prog.removeprefix('mrt5 ')} takes no {flag}{nearest(flag, self._option_string_actions)}"
            )
        return namespace, unknown


def _help() -> str:
    commands = [f"  {name:<11}{command.help}\n             {command.example}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mrt5 COMMAND ...",
            "",
            "MrT5 in JAX: a byte-level T5 that learns which bytes to delete.",
            "",
            *commands,
            "",
            "`mrt5 COMMAND --help` lists a command's flags.",
        ]
    )
