"""A command by two processes that know each other, with four devices each."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def run_two(command: Sequence[str]) -> list[str]:
    """Returns what each of them says, the first one first; both have to end well."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{any_port.getsockname()[1]}"
    place = [f"--coordinator_address={address}", "--num_processes=2"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "mrt5_jax", *command, *place, f"--process_id={number}"],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    for process, text in zip(running, said, strict=True):
        assert process.returncode == 0, text
    return said
