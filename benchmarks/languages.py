"""The correction of noisy text as a mixture with a task for each language, so that each language has a runtime.

    TEXT_FOLDER=text mrt5 eval --model_dir=MODEL_DIR --module benchmarks.languages --task fifteen_languages \
      --split validation --gin.config.ExecutionConfig.window=4

Under TEXT_FOLDER, train/ and validation/ have a file a language. Runtimes are known of windows that have examples of
one language alone.
"""

import os
from pathlib import Path

from mrt5_jax.data.registry import add_mixture
from mrt5_jax.tasks import correction  # pyright: ignore[reportMissingImports] - setuptools puts it there

NAME = "fifteen_languages"
TEXT = Path(os.environ.get("TEXT_FOLDER", "text"))
INPUT_LENGTH = 32

add_mixture(
    NAME,
    {
        correction.noisy_text_task(str(path), str(TEXT / "validation" / path.name), INPUT_LENGTH): 1.0
        for path in sorted((TEXT / "train").glob("*.txt"))
    },
)
