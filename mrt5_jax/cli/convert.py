"""`mrt5 convert`: weights from Hugging Face and T5X into a MODEL_DIR, and back to Hugging Face."""

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import given_path

if TYPE_CHECKING:  # imported where they are used: `mrt5 --help` does not wait for JAX
    import numpy as np

    from mrt5_jax.interop.models import Model

HELP = "import and export weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(title="conversions", required=True, metavar="CONVERSION")

    hf_import = formats.add_parser("hf-import", help="a Hugging Face folder of ByT5 or MrT5 -> a MODEL_DIR")
    hf_import.add_argument(
        "source", type=given_path, metavar="SRC", help="folder with config.json and model.safetensors"
    )
    _add_import_arguments(hf_import)
    hf_import.add_argument(
        "--repeat_check", action="store_true", help="export the result again and compare it with SRC, bit for bit"
    )
    hf_import.set_defaults(convert=_hf_import)

    hf_export = formats.add_parser("hf-export", help="a MODEL_DIR -> a Hugging Face folder")
    hf_export.add_argument("source", type=given_path, metavar="MODEL_DIR")
    hf_export.add_argument("destination", type=given_path, metavar="DST", help="folder to create")
    hf_export.add_argument("--step", type=int, help="checkpoint to export (default: the newest)")
    hf_export.set_defaults(convert=_hf_export)

    t5x_import = formats.add_parser("t5x-import", help="a ByT5 checkpoint of T5X -> a MODEL_DIR")
    t5x_import.add_argument("source", type=given_path, metavar="SRC", help="checkpoint_STEP folder")
    _add_import_arguments(t5x_import)
    t5x_import.set_defaults(convert=_t5x_import)


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", type=given_path, metavar="DST", help="MODEL_DIR to create")
    parser.add_argument(
        "--allow_non_finite",
        action="store_true",
        help="import weights with NaN or infinities as they are: only what does not touch them is answered",
    )
    gate = parser.add_argument_group("making an MrT5 from a ByT5")
    gate.add_argument("--add_gate", action="store_true", help="add a new delete gate")
    gate.add_argument("--gate_layer", type=int, help="encoder layer at whose input it stands (default: 3)")
    gate.add_argument("--gate_bias", type=float, help="its initial bias; large keeps everything (default: 1)")
    gate.add_argument("--gate_seed", type=int, help="seed of its weights (default: 0)")
    parser.add_argument(
        "--softmax1",
        action="store_true",
        help="softmax1 in every attention: the paper's MrT5 has it, and SRC may not say so",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the chosen conversion; returns the exit code. The destination appears only when it is complete."""
    from mrt5_jax.interop.model_dirs import complete_or_absent

    with complete_or_absent(args.destination) as folder:
        print(f"reading {args.source}")
        args.convert(args, folder)
    print(f"done: {args.destination}")
    return 0


def _hf_import(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.hf import read_hf
    from mrt5_jax.runs.folders import local_copy

    _check_gate_flags(args)
    with local_copy(args.source) as source:
        imported = read_hf(source)
        _check_finite(args, imported.not_finite)
        _write(args, folder, imported)
        if args.repeat_check:
            _repeat_check(folder, str(source))


def _t5x_import(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.t5x import read_t5x
    from mrt5_jax.runs.folders import local_copy

    _check_gate_flags(args)
    with local_copy(args.source) as source:
        imported = read_t5x(source)
        _check_finite(args, imported.not_finite)
        _write(args, folder, imported)


def _hf_export(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.hf import write_hf
    from mrt5_jax.interop.model_dirs import read_model_dir

    model = read_model_dir(args.source, args.step)
    for note in write_hf(model.params, model.config, folder, model.source):
        print(note)


def _check_finite(args: argparse.Namespace, counts: Mapping[str, int]) -> None:
    from mrt5_jax.interop.finiteness import check_finite, describe_finiteness

    if not args.allow_non_finite:
        check_finite(counts, args.source)
    elif counts:
        print(f"kept as they are: {describe_finiteness(counts)}")


def _check_gate_flags(args: argparse.Namespace) -> None:
    given = [name for name in ("gate_layer", "gate_bias", "gate_seed") if getattr(args, name) is not None]
    if given and not args.add_gate:
        raise UserError(f"--{given[0]} needs --add_gate")


def _write(args: argparse.Namespace, folder: Path, model: "Model") -> None:
    """Adds the gate if asked to, prints what became of every tensor, and writes the MODEL_DIR."""
    from mrt5_jax.interop.model_dirs import write_model_dir
    from mrt5_jax.interop.names import unstack_layers

    restored = unstack_layers(model.params, model.config)
    if args.softmax1:
        model = model._replace(config=dataclasses.replace(model.config, softmax1=True))
    if args.add_gate:
        model = _gated(args, model)
    written = unstack_layers(model.params, model.config)
    new = {name: array for name, array in written.items() if name not in restored}
    for line in [*_table(restored, new), *model.notes]:
        print(line)
    print(f"writing {args.destination}")
    write_model_dir(folder, model, allow_non_finite=args.allow_non_finite)


def _gated(args: argparse.Namespace, model: "Model") -> "Model":
    from mrt5_jax.interop.gate_adding import add_gate

    flags = {"layer": args.gate_layer, "bias_init": args.gate_bias}
    gate = GateConfig(**{name: value for name, value in flags.items() if value is not None})
    gated = add_gate(model.params, model.config, gate, args.gate_seed or 0)
    return model._replace(config=gated.config, params=gated.params)


def _table(restored: Mapping[str, "np.ndarray"], new: Mapping[str, "np.ndarray"]) -> list[str]:
    rows = [f"{'':10}{'tensors':>8}{'parameters':>14}"]
    for kind, arrays in (("restored", restored), ("new", new)):
        size = sum(array.size for array in arrays.values())
        rows.append(f"{kind:10}{len(arrays):8}{size:14,}  {', '.join(arrays) if kind == 'new' else ''}".rstrip())
    return rows


def _repeat_check(model_dir: Path, source: str) -> None:
    from mrt5_jax.interop.hf import differences, write_hf
    from mrt5_jax.interop.model_dirs import read_model_dir
    from mrt5_jax.interop.names import gate_tensors

    model = read_model_dir(model_dir)
    assert model.source is not None
    added = {tensor.hugging_face for tensor in gate_tensors(model.config)} - model.source.tensors.keys()
    with tempfile.TemporaryDirectory() as exported:
        write_hf(model.params, model.config, exported, model.source)
        changed = [name for name in differences(exported, source) if name not in added]
    if changed:
        raise UserError(
            f"{source}: {', '.join(changed)} did not survive import and export bit for bit, so nothing is written: "
            "leave out --repeat_check to import it nevertheless"
        )
    print("repeat check: every tensor is the same after import and export, bit for bit")
