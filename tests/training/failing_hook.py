"""One process of a run of two, whose hook raises in the second one alone; prints what the run ended with.

python tests/training/failing_hook.py MODEL_DIR '{"coordinator_address": ..., "num_processes": 2, "process_id": 0}'
"""

import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parent))
from small_runs import make_run


def main(model_dir: Path, place: dict[str, int | str]) -> None:
    """Trains six steps, of which the second is the last."""
    from mrt5_jax.errors import HookError
    from mrt5_jax.tasks.diagnostics import diagnostic_task
    from mrt5_jax.training.hooks import Every, Moment
    from mrt5_jax.training.loop import train

    def fail_in_the_second_process(moment: Moment) -> None:
        if jax.process_index() == 1:
            raise ConnectionError("gone")

    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(**place)  # pyright: ignore[reportArgumentType]
    task = diagnostic_task("copy", length=8, num_train=100, num_validation=6)
    try:
        train(make_run(model_dir, task), writers=(), hooks=[Every(2, fail_in_the_second_process)])
    except HookError as error:
        print(f"ended: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
