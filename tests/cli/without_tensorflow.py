"""Runs commands one after the other where TensorFlow, seqio and its datasets are not to be found.

    python tests/cli/without_tensorflow.py '[["train", "--gin_file=..."], ["eval", ...]]'

Prints each one's exit code, and which of them it tried to import, as JSON in the last line.
"""

import json
import sys
from typing import Any

KEPT_OUT = ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text")


class Without:
    """A finder of modules that does not find these."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, *others: Any) -> Any:
        return None if name.partition(".")[0] in KEPT_OUT else self._finder.find_spec(name, *others)


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    tried: set[str] = set()
    sys.addaudithook(lambda event, of: tried.add(of[0]) if event == "import" and of[0] in KEPT_OUT else None)
    from mrt5_jax.cli.main import main

    codes, imports = [], []
    for words in json.loads(sys.argv[1]):
        tried.clear()
        codes.append(main(words))
        imports.append(sorted(tried))
    print(json.dumps({"codes": codes, "imports": imports}))
