"""Peak memory of an import: `python -m benchmarks.import_memory`, on Linux, with 8 GB of disk below --folder.

Makes a random ByT5 (by default of 2.3 GB in float32) in shards of float32 and of bfloat16, imports each in a process of
its own, and prints what the process held at most above what it held before it read anything. Promised are the model in
float32 and the largest shard. `--size=tiny --shard=1` tries it in seconds: so small a model says nothing of the memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from mrt5_jax import presets
from mrt5_jax.interop import names
from mrt5_jax.interop.hf_config import write_config

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_CHILD = """
# Linux's own figures: resource.getrusage begins a child's peak with that of its parent, which made the model.
import sys
from pathlib import Path
from mrt5_jax.cli.main import main
import mrt5_jax.interop.hf, mrt5_jax.interop.hub, mrt5_jax.interop.model_dirs
import jax
jax.numpy.ones(3).block_until_ready()

def held(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10

before = held("VmRSS")
assert main(["convert", "hf-import", *sys.argv[1:]]) == 0
print(held("VmHWM") - before)
"""


def main() -> None:
    """Prints a table row of every type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="of the model (default: base)")
    parser.add_argument("--shard", type=int, default=500, metavar="MB", help="least size of a shard (default: 500)")
    parser.add_argument("--folder", help="where there is room (default: the system's for temporary files)")
    args = parser.parse_args()
    print("| stored | model, MB | largest shard, MB | at most above before, MB | above the model, largest shards |")
    print("|---|---|---|---|---|")
    for name, dtype in DTYPES.items():
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            source = Path(folder) / "source"
            size = make_source(source, args.size, dtype, args.shard * 10**6)
            largest = max(path.stat().st_size for path in source.glob("*.safetensors"))
            command = [sys.executable, "-c", _CHILD, str(source), str(Path(folder) / "model")]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            peak = int(ran.stdout.splitlines()[-1])
            figures = [f"{number / 1e6:.0f}" for number in (size, largest, peak)]
            print(f"| {name} | {' | '.join(figures)} | {(peak - size) / largest:.2f} |", flush=True)


def make_source(folder: Path, size: str, dtype: np.dtype, least: int) -> int:
    """Writes random weights in shards of at least so many bytes, and returns the bytes of the model in float32."""
    folder.mkdir()
    config = presets.byt5(size)  # pyright: ignore[reportArgumentType] - refused by name where it is none
    (folder / "config.json").write_text(json.dumps(write_config(config, None)))
    generator, shard, home, total = np.random.default_rng(0), {}, {}, 0
    tensors = names.tensors(config)
    for number, tensor in enumerate(tensors):
        array = generator.standard_normal(names.shape(tensor, config), np.float32)
        total += array.nbytes
        shard[tensor.hugging_face] = np.ascontiguousarray(tensor.turned(array)).astype(dtype)
        if sum(part.nbytes for part in shard.values()) >= least or number == len(tensors) - 1:
            file = f"model-{number:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            home |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": home}))
    return total


if __name__ == "__main__":
    main()
