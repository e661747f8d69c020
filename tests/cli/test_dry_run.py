"""`mrt5 train --dry_run` says what the compiler says, for devices that are not here; and refuses what does not fit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.runs.run_files import claim

SMALL = [
    "--gin_file=runs/quickstart.gin",
    *("--gin.INPUT_LENGTH=32", "--gin.TARGET_LENGTH=16", "--gin.BATCH_SIZE=16"),
    *(f"--gin.config.ModelConfig.{name}={size}" for name, size in {"emb_dim": 128, "mlp_dim": 256}.items()),
    "--gin.config.ExecutionConfig.rounding=8",
    "--gin.config.ExecutionConfig.max_rungs=2",
    "--gin.config.ExecutionConfig.scan_unroll=1",
]


def dry_run(*flags: str) -> str:
    """In a process of its own, since simulated devices are a process's own."""
    command = [sys.executable, "-m", "mrt5_jax", "train", *SMALL, "--dry_run", *flags]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in\n{text}"
    return float(match[1].replace(",", ""))


def collective_lines(text: str) -> list[str]:
    return re.findall(r"^#   ((?:all|reduce|collective)-\S+ .*)$", text, re.MULTILINE)


def test_a_dry_run_on_these_devices_compiles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "# mesh data=1 x fsdp=1 x tensor=1 over 1 x cpu" in text
    assert "a device has 16 of 16 rows of 32 inputs and 16 targets" in text
    kernel = re.search(r"^#   encoder/suffix/mlp/wi_0/kernel +(\[.*?\]) +float32 +- fsdp tensor +(\S+)$", text, re.M)
    assert kernel
    assert kernel[1] == "[2, 128, 256]"
    assert float(kernel[2]) == pytest.approx(2 * 128 * 256 * 4 / 1e6, abs=0.06)
    assert "#   at length 16: " in text
    assert "#   at length 32: " in text
    assert "compiled" not in text
    assert gin_setup.resolve(base_text=text).run.model.emb_dim == 128


def test_a_dry_run_says_what_dealing_would_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"l{number % 4}\t32\t{4 + 8 * (number % 4)}" for number in range(40)]
    (tmp_path / "kept.tsv").write_text("\n".join(lines))
    assert main(["train", *SMALL, "--dry_run", f"--kept={tmp_path / 'kept.tsv'}"]) == 0
    text = capsys.readouterr().out
    row = re.search(r"^#  +16 +4 +(\d+)% +(\d+)%$", text, re.M)
    assert row
    assert row[1] == row[2], "there is one device"
    assert re.search(r"best with 16 rows a device, as here: \d+ chunks", text)
    assert main(["train", *SMALL, "--kept=kept.tsv"]) == 2
    assert "--kept goes with --dry_run" in capsys.readouterr().err


@pytest.mark.slow
def test_dealing_adds_no_collective() -> None:
    """Features and numbers of rows come with the batch; the sums that it learns from join those that are there."""
    flags = "--topology=cpu:8", "--gin.config.TrainingConfig.deletion='hard'", "--gin.config.ExecutionConfig.chunks=2"
    as_they_come, dealt = (
        collective_lines(dry_run(*flags, f"--gin.config.ExecutionConfig.device_rows='{how}'"))
        for how in ("as_they_come", "dealt")
    )
    print("\n".join(["as they come:", *as_they_come, "dealt:", *dealt]))
    counted = [sum(int(line.split()[2]) for line in lines) for lines in (as_they_come, dealt)]
    assert counted[0] == counted[1] > 0


@pytest.mark.slow
def test_bytes_on_a_device_are_the_compilers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--dry_run", "--topology=local"]) == 0
    text = capsys.readouterr().out
    ours = number(r"together (\S+) MB", text)
    assert ours == pytest.approx(number(r"arguments ([\d.,]+),", text), rel=0.1)
    assert "no collectives" in text


@pytest.mark.slow
def test_eight_simulated_devices_hold_what_is_printed_and_exchange_what_sharding_needs() -> None:
    """Our bytes agree with the compiler's arguments within a tenth; branches of hard deletion reduce alike."""
    mesh = [f"--gin.config.MeshConfig.{axis}=2" for axis in ("fsdp", "tensor")]
    text = dry_run("--topology=cpu:8", "--gin.config.TrainingConfig.deletion='hard'", *mesh)
    assert "# mesh data=2 x fsdp=2 x tensor=2 over 8 simulated CPU devices" in text
    ours = number(r"together (\S+) MB", text)
    assert ours == pytest.approx(number(r"arguments ([\d.,]+),", text), rel=0.1)
    lines = collective_lines(text)
    assert any(line.startswith("all-reduce") and "always" in line for line in lines)
    branches = [{line.split("branch")[0].strip() for line in lines if line.endswith(f"/{index}")} for index in (0, 1)]
    assert branches[0]
    kinds = [sorted(line.split()[0] for line in branch) for branch in branches]
    assert kinds[0] == kinds[1], "a rung more, the same collectives"


@pytest.mark.slow
def test_deletion_exchanges_nothing_but_a_few_numbers() -> None:
    """Over data, hard deletion moves what no deletion moves, whichever branch runs and in how many chunks: gradients,
    once."""

    def megabytes_moved(deletion: str, *flags: str) -> dict[str, float]:
        text = dry_run("--topology=cpu:8", f"--gin.config.TrainingConfig.deletion='{deletion}'", *flags)
        moved: dict[str, float] = {}
        for line in collective_lines(text):
            kind, over, _, size, *where = line.split()
            assert (kind, over) == ("all-reduce", "data")
            moved[where[-1]] = moved.get(where[-1], 0) + float(size)
        return moved

    nothing, hard = megabytes_moved("none", "--gin.config.RunConfig.controller=None"), megabytes_moved("hard")
    assert set(nothing) == {"always"}
    assert len(hard) == 3, "two rungs, and what always runs"
    for branch in hard.keys() - {"always"}:
        assert hard["always"] + hard[branch] == pytest.approx(nothing["always"], rel=0.02)
    chunks = "--gin.config.ExecutionConfig.chunks=2"
    assert sum(megabytes_moved("hard", chunks).values()) == pytest.approx(nothing["always"], rel=0.02)


@pytest.mark.slow
def test_devices_that_differ_in_rows_exchange_their_gradients_and_no_more() -> None:
    """Not the gradients of position biases, [heads length length] in every layer, which sixteen rows share.

    The embedding's gradient is two, encoder's and decoder's, that are added up apart.
    """
    text = dry_run("--topology=cpu:8", "--gin.INPUT_LENGTH=256", "--gin.config.TrainingConfig.deletion='soft'")
    moved = sum(float(line.split()[3]) for line in collective_lines(text))
    embedding = 384 * 128 * 4 / 1e6
    assert moved == pytest.approx(number(r"bytes on a device: parameters (\S+) MB", text) + embedding, rel=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--topology=v5e"], ["--topology=v5e", "v5e:16x16", "cpu:8"]),
        (["--topology=cpu:0"], ["--topology=cpu:0"]),
        (["--gin.config.MeshConfig.data=3"], ["mesh data=3", "does not fit 1 device"]),
        (["--gin.config.MeshConfig.data=-1", "--gin.config.MeshConfig.fsdp=-1"], ["at most one is -1"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(refused, flags: list[str], words: list[str]) -> None:
    message = refused("train", *SMALL, "--dry_run", *flags)
    for word in words:
        assert word in message


def test_a_topology_is_for_dry_runs(refused) -> None:
    assert "--topology goes with --dry_run" in refused("train", *SMALL, "--topology=cpu:8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2"], ["--coordinator_address, --process_id missing"]),
        (["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=2"], ["should be from 0 to 1"]),
        (["--cluster", "--process_id=1"], ["--cluster finds the other processes itself"]),
    ],
)
def test_processes_that_are_half_named_are_refused(refused, flags: list[str], words: list[str]) -> None:
    message = refused("train", *SMALL, *flags)
    for word in words:
        assert word in message


def test_a_cluster_that_is_not_there_is_one_line(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(variable, raising=False)
    assert "--cluster: the processes of this run do not find each other" in refused("train", *SMALL, "--cluster")


def test_a_mesh_that_does_not_fit_leaves_no_model_dir(refused, tmp_path: Path) -> None:
    model_dir = f"--gin.MODEL_DIR='{tmp_path / 'new'}'"
    assert "does not fit 1 device" in refused("train", *SMALL, model_dir, "--gin.config.MeshConfig.tensor=2")
    assert not (tmp_path / "new").exists()


def test_a_second_run_in_a_model_dir_is_told_of_the_first(refused, tmp_path: Path) -> None:
    from mrt5_jax.runs.lock import run_lock

    first = tmp_path / "first"
    with run_lock(first):
        before = sorted(first.iterdir())
        message = refused("train", *SMALL, f"--gin.MODEL_DIR='{first}'")
        assert f"{first} is in use by another run (process {os.getpid()} on " in message
        assert sorted(first.iterdir()) == before


def test_a_checkpoint_of_another_model_is_refused_with_every_difference(refused, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    flags = [flag.removeprefix("--gin.") for flag in SMALL[1:]]
    theirs = gin_setup.resolve(["runs/quickstart.gin"], bindings=[f"MODEL_DIR='{folder}'", *flags])
    claim(theirs.run, theirs.config_text)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    changed = ["--gin.config.ModelConfig.num_heads=2", "--gin.config.ModelConfig.emb_dim=64"]
    message = refused("train", *SMALL, f"--gin.MODEL_DIR='{folder}'", *changed)
    assert "model.emb_dim 128 -> 64; model.num_heads 4 -> 2" in message
    assert {path: path.read_bytes() for path in before} == before


CYCLES = r"the compiler's estimate: (\S+) million cycles"
TPU = [
    ("v5e:2x4", "hard", {"fsdp": 4}),
    ("v5p:2x2x2", "soft", {"fsdp": 2, "tensor": 2}),
    ("2*v5e:2x2", "soft", {"fsdp": 4}),
]


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(("topology", "deletion", "mesh"), TPU)
def test_the_tpu_compiler_agrees(topology: str, deletion: str, mesh: dict[str, int]) -> None:
    """Bytes on a device within a tenth; within a slice, gradients are reduced over the data axis.

    Between slices the program has no collective for it that the list could show.
    """
    pytest.importorskip("libtpu")
    wide = [f"--gin.config.ModelConfig.{name}={size}" for name, size in {"emb_dim": 512, "mlp_dim": 1024}.items()]
    axes = [f"--gin.config.MeshConfig.{axis}={size}" for axis, size in mesh.items()]
    deletes = f"--gin.config.TrainingConfig.deletion='{deletion}'"
    text = dry_run(f"--topology={topology}", deletes, "--gin.config.ModelConfig.head_dim=128", *wide, *axes)
    assert "8 x TPU v5" in text
    ours = number(r"together (\S+) MB", text)
    assert ours == pytest.approx(number(r"arguments ([\d.,]+),", text), rel=0.1)
    assert re.search(r"the compiler's count.* flops, .* MB moved", text)
    assert number(CYCLES, text) > 0
    assert (" ms), without exchanges" in text) is ("v5e" in topology), "the clock of a v5p is not certain"
    between_slices = topology.startswith("2*")
    assert any("data" in line for line in collective_lines(text)) is not between_slices
    gathers = [line for line in collective_lines(text) if "all-gather" in line]
    assert gathers, "parameters lie spread over fsdp"
    assert not any("data" in line for line in gathers), "no rows are gathered"


@pytest.mark.tpu_compiler
def test_twice_the_rows_take_more_cycles() -> None:
    """More, but not twice as many: the optimizer does not know how many rows there were."""
    pytest.importorskip("libtpu")
    few, many = (number(CYCLES, dry_run("--topology=v5e:2x2", f"--gin.BATCH_SIZE={rows}")) for rows in (16, 32))
    assert few < many < 2 * few
