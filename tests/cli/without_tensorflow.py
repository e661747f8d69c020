"""Runs commands one after the other, the first with TensorFlow, seqio and its datasets installed as they may be, the
others where they are not to be found.

    python tests/cli/without_tensorflow.py '[["train", "--gin_file=..."], ["eval", ...]]'

Prints each one's exit code, which of them it tried to import, and which are loaded then, as JSON in the last line.
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
    tried: set[str] = set()
    sys.addaudithook(lambda event, of: tried.add(of[0]) if event == "import" and of[0] in KEPT_OUT else None)
    from mrt5_jax.cli.main import main

    codes, imports, loaded = [], [], []
    for number, words in enumerate(json.loads(sys.argv[1])):
        if number == 1:
            sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
        tried.clear()
        codes.append(main(words))
        imports.append(sorted(tried))
        loaded.append([name for name in KEPT_OUT if sys.modules.get(name) is not None])
    print(json.dumps({"codes": codes, "imports": imports, "loaded": loaded}))
