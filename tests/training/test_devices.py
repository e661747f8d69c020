"""A run's numbers do not depend on the devices: 8 in every mesh shape, and 2 processes with 4 each, are as one.

In float64 to 1e-9 over 20 steps: a single gate decided otherwise would show. Dropout is on, the gate learns, AdamW and
the controller move.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHILD = Path(__file__).parent / "on_devices.py"
FAILING_HOOK = Path(__file__).parent / "failing_hook.py"
MESHES = ([8, 1, 1], [4, 2, 1], [2, 2, 2])
CASES: dict[str, dict[str, Any]] = {
    "nothing is deleted": {"training": {"deletion": "none"}},
    "soft": {"training": {"deletion": "soft"}},
    "soft, 4 microbatches": {"training": {"deletion": "soft"}, "execution": {"microbatches": 4}},
    "hard": {"training": {"deletion": "hard"}},
    "hard, on the host": {"training": {"deletion": "hard"}, "execution": {"dispatch": "host"}},
    "hard, capacity": {"training": {"deletion": "hard"}, "compaction": {"capacity": 0.5}},
    "saturated": {"training": {"deletion": "saturated"}},
    "saturated, in 2 chunks": {"training": {"deletion": "saturated"}, "execution": {"chunks": 2}},
    "saturated, on the host, 4 microbatches": {
        "training": {"deletion": "saturated"},
        "execution": {"dispatch": "host", "microbatches": 4},
    },
    "steered by language, 4 microbatches": {
        "training": {"deletion": "hard"},
        "execution": {"microbatches": 4},
        "controller": {
            "target_deletion_rate": 0.9,
            "kind": "two_sided",
            "language_targets": [["en", 0.3], ["de", 0.6]],
        },
    },
    "pooled by a convolution, in 2 chunks": {
        "gate": {"kind": "every_kth", "stride": 3, "reduction": "convolution"},
        "training": {"deletion": "hard"},
        "execution": {"chunks": 2},
    },
    "boundaries that a predictor draws, in 2 chunks": {
        "gate": {"kind": "boundary_predictor"},
        "training": {"deletion": "hard"},
        "execution": {"chunks": 2},
        "loss": {"penalties": [["boundaries", 1.0]]},
    },
    "H-Net's routing, 4 microbatches": {
        "gate": {"kind": "hnet", "settings": [["downsampling", 2.0]]},
        "training": {"deletion": "hard"},
        "execution": {"microbatches": 4},
        "loss": {"penalties": [["ratio", 0.1]]},
    },
    "MAGNET's boundaries, on the host": {
        "gate": {"kind": "magnet", "settings": [["latin", 0.2], ["cyrillic", 0.1]]},
        "training": {"deletion": "hard"},
        "execution": {"dispatch": "host"},
        "loss": {"penalties": [["boundaries", 1.0]]},
    },
    "pooled by means, on the host": {
        "gate": {"kind": "every_kth", "stride": 3},
        "training": {"deletion": "hard"},
        "execution": {"dispatch": "host"},
    },
}
BOUNDS = {"1": (20, 1e-9), "0": (3, 1e-5)}
"""JAX_ENABLE_X64 -> steps, and the largest difference that may be seen in them."""
FEWER = ("soft, 4 microbatches", "hard", "saturated, on the host, 4 microbatches")
"""Cases that differ most, for what need not be tried with all: float32, and several processes."""


def measure(orders: list[dict[str, Any]], x64: str) -> list[list[dict[str, float]]]:
    """What the first of the processes prints; each order is a process."""
    environment = os.environ | {"JAX_ENABLE_X64": x64}
    processes = [
        subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(order)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), [errors for _, errors in outputs]
    return json.loads(outputs[0][0].splitlines()[-1])


def measure_in_two_processes(order: dict[str, Any], x64: str) -> list[list[dict[str, float]]]:
    """The order's runs on the devices of two processes, each of which has as many as the order says."""
    return measure([order | {"process": place} for place in two_places()], x64)


def two_places() -> list[dict[str, str | int]]:
    """Arguments of `jax.distributed.initialize` for each of two processes on this machine."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{any_port.getsockname()[1]}"
    return [{"coordinator_address": address, "num_processes": 2, "process_id": number} for number in range(2)]


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]], case: str = "") -> float:
    """Of losses, deletion rates and rungs.

    Microbatches and chunks take rows of every device, so with other devices they have other rows, and the longest of
    them may want another rung; what is computed must not change with it.
    """
    in_parts = "microbatches" in case or "chunks" in case
    compared = {"total_loss", "deletion_rate"} | (set() if in_parts else {"rung"})
    table = [[[step[name] for name in sorted(compared)] for step in run] for run in (one, other)]
    return float(np.abs(np.subtract(*table)).max())


QUICK = {"training": {"deletion": "hard"}, "execution": {"chunks": 2}}
"""Two rungs, and chunks: each device sorts its own rows into them and adds up their gradients apart."""


@pytest.fixture(scope="module")
def one_and_eight() -> list[list[dict[str, float]]]:
    """Two steps on one device and on eight, along all three axes."""
    runs = [QUICK | {"mesh": mesh} for mesh in ([1, 1, 1], [2, 2, 2])]
    return measure([{"devices": 8, "steps": 2, "runs": runs}], x64="1")


def test_eight_devices_are_as_one(one_and_eight) -> None:
    one, eight = one_and_eight
    assert largest_difference(one, eight, "in chunks") < 1e-9
    assert 0.05 < one[0]["deletion_rate"] < 0.95, "the gate deletes"


def test_two_processes_are_as_one(one_and_eight) -> None:
    one, _ = one_and_eight
    runs = [QUICK | {"mesh": [2, 1, 1]}]
    (two,) = measure_in_two_processes({"devices": 1, "steps": 2, "runs": runs}, x64="1")
    assert largest_difference(one, two, "in chunks") < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("case", "x64"), [*((case, "1") for case in CASES), *((case, "0") for case in FEWER)])
def test_every_mesh_and_deletion(case: str, x64: str) -> None:
    steps, bound = BOUNDS[x64]
    runs = [CASES[case] | {"mesh": mesh} for mesh in ([1, 1, 1], *MESHES)]
    alone, *others = measure([{"devices": 8, "steps": steps, "runs": runs}], x64)
    assert len(alone) == steps
    for mesh, result in zip(MESHES, others, strict=True):
        assert largest_difference(alone, result, case) < bound, mesh


@pytest.mark.slow
@pytest.mark.parametrize(("case", "x64"), [*((case, "1") for case in FEWER), ("hard", "0")])
def test_two_processes_of_four_devices(case: str, x64: str) -> None:
    steps, bound = BOUNDS[x64]
    runs = [CASES[case] | {"mesh": mesh} for mesh in MESHES]
    found = measure_in_two_processes({"devices": 4, "steps": steps, "runs": runs}, x64)
    (alone,) = measure([{"devices": 1, "steps": steps, "runs": [CASES[case] | {"mesh": [1, 1, 1]}]}], x64)
    for mesh, result in zip(MESHES, found, strict=True):
        assert largest_difference(alone, result, case) < bound, mesh


@pytest.mark.slow
def test_a_hook_that_fails_in_one_process_ends_all_of_them(tmp_path: Path) -> None:
    """Each says so, and none waits for another; the run is saved first."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(FAILING_HOOK), str(tmp_path / "run"), json.dumps(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in two_places()
    ]
    first, second = (process.communicate(timeout=600) for process in processes)
    saved = f"{tmp_path / 'run'} is saved at step 2;"
    assert f"ended: the hook Every failed in another process after step 2: {saved}" in first[0], first
    assert f"ended: the hook Every raised ConnectionError (gone) after step 2: {saved}" in second[0], second
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
