"""`mrt5 convert`: weights from Hugging Face and T5X into a MODEL_DIR and back, and programs that run without us."""

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

_SIZES = {
    "input_length": "longest input, in ids, end of sequence included (default: the run's, or 1024)",
    "max_target_length": "longest target, in ids, end of sequence included (default: the run's, or 256)",
    "batch_size": "rows that a program computes at once (default: 8)",
}
_DEFAULT_SIZES = (1024, 256, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(title="conversions", required=True, metavar="CONVERSION")

    hf_import = formats.add_parser("hf-import", help="a Hugging Face folder or hub id of ByT5 or MrT5 -> a MODEL_DIR")
    hf_import.add_argument(
        "source",
        type=given_path,
        metavar="SRC",
        help="folder with config.json and model.safetensors, or a model of the hub: OWNER/NAME or OWNER/NAME@REVISION",
    )
    _add_import_arguments(hf_import)
    hf_import.add_argument(
        "--repeat_check", action="store_true", help="export the result again and compare it with SRC, bit for bit"
    )
    hf_import.set_defaults(convert=_hf_import)

    hf_export = formats.add_parser("hf-export", help="a MODEL_DIR -> a Hugging Face folder")
    _add_export_arguments(hf_export, "folder to create")
    hf_export.set_defaults(convert=_hf_export)

    t5x_import = formats.add_parser("t5x-import", help="a ByT5 checkpoint of T5X -> a MODEL_DIR")
    t5x_import.add_argument("source", type=given_path, metavar="SRC", help="checkpoint_STEP folder")
    _add_import_arguments(t5x_import)
    t5x_import.set_defaults(convert=_t5x_import)

    t5x_export = formats.add_parser("t5x-export", help="a MODEL_DIR -> a checkpoint of T5X")
    _add_export_arguments(t5x_export, "folder to create, with checkpoint_STEP in it")
    t5x_export.set_defaults(convert=_t5x_export)

    jax_export = formats.add_parser(
        "jax-export",
        help="a MODEL_DIR -> programs that run with jax and numpy alone",
        description="Exports scoring and greedy generation under hard deletion, for a ladder of input lengths, with "
        "the parameters and a loader that needs jax and numpy alone. Sampling and beam search are not included.",
    )
    _add_export_arguments(jax_export, "folder to create")
    for flag, what in _SIZES.items():
        jax_export.add_argument(f"--{flag}", type=int, help=what)
    jax_export.add_argument("--platforms", default="cpu,cuda,tpu", help="to export for (default: cpu,cuda,tpu)")
    jax_export.set_defaults(convert=_jax_export)


def _add_export_arguments(parser: argparse.ArgumentParser, destination: str) -> None:
    parser.add_argument("source", type=given_path, metavar="MODEL_DIR")
    parser.add_argument("destination", type=given_path, metavar="DST", help=destination)
    parser.add_argument("--step", type=int, help="checkpoint to export (default: the newest)")


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
    from mrt5_jax.interop.hub import source_folder

    _check_gate_flags(args)
    with source_folder(args.source) as source:
        imported = read_hf(source)
        _check_finite(args, imported.not_finite)
        _write(args, folder, imported)
        del imported  # which the check would hold beside what it reads
        if args.repeat_check:
            _repeat_check(folder, str(source))


def _t5x_import(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.t5x import read_t5x
    from mrt5_jax.interop.t5x_arrays import is_parameter
    from mrt5_jax.runs.folders import local_copy

    _check_gate_flags(args)
    with local_copy(args.source, is_parameter) as source:
        imported = read_t5x(source)
        _check_finite(args, imported.not_finite)
        _write(args, folder, imported)


def _hf_export(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.hf_export import export_hf
    from mrt5_jax.interop.model_dirs import read_model_dir

    for note in export_hf(read_model_dir(args.source, args.step), args.source, folder):
        print(note)


def _t5x_export(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.model_dirs import read_model_dir
    from mrt5_jax.interop.t5x_export import write_t5x

    model = read_model_dir(args.source, args.step)
    write_t5x(model.params, model.config, folder, model.step)
    if model.config.gate is not None:
        print("T5X's own network has no gate: its arrays lie beside those of the ByT5; t5x-import reads both")


def _jax_export(args: argparse.Namespace, folder: Path) -> None:
    from mrt5_jax.interop.jax_export import PLATFORMS, ExportSizes, Platform, export_programs
    from mrt5_jax.interop.model_dirs import read_model_dir
    from mrt5_jax.runs.run_files import read_run
    from mrt5_jax.selection.selectors import check_stride
    from mrt5_jax.validation import LARGEST_INTEGER

    for flag in _SIZES:
        if getattr(args, flag) is not None and not 1 <= getattr(args, flag) <= LARGEST_INTEGER:
            raise UserError(f"--{flag}={getattr(args, flag)}: must be at least 1, and at most {LARGEST_INTEGER}")
    wanted = args.platforms.split(",")
    platforms: list[Platform] = [platform for platform in PLATFORMS if platform in wanted]
    if unknown := [name for name in wanted if name not in PLATFORMS]:
        raise UserError(f"--platforms={args.platforms}: {unknown[0]!r} is not one of {', '.join(PLATFORMS)}")
    model, run = read_model_dir(args.source, args.step), read_run(args.source)
    defaults = ExportSizes(*_DEFAULT_SIZES)
    if run is not None:
        defaults = defaults._replace(input_length=run.data.input_length, target_length=run.data.target_length)
    sizes = ExportSizes(
        args.input_length or defaults.input_length,
        args.max_target_length or defaults.target_length,
        args.batch_size or defaults.batch_size,
    )
    check_stride(model.config.gate, sizes.input_length, "--input_length")
    export_programs(model, folder, sizes, platforms)


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
