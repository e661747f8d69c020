"""Runs the model in this folder with jax and numpy alone: python load.py < requests.jsonl > answers.jsonl
A request is {"inputs": TEXT}, which is completed greedily, or {"inputs": TEXT, "targets": TEXT}, which is scored."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export


class ExportedModel:
    def __init__(self, folder=Path(__file__).parent):
        self.folder, self.programs = Path(folder), {}
        sys.path.append(str(self.folder))  # has flatbuffers, which jax reads programs with and does not bring along
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        if self.platform not in self.manifest["platforms"]:
            raise ValueError(f"exported for {self.manifest['platforms']}, and jax runs on {self.platform} here")
        self.params = {name: jax.device_put(a) for name, a in np.load(self.folder / "parameters.npz").items()}

    def generate(self, texts):
        """Yields each text's prediction by greedy search, which is all there is, and its log-probability."""
        for ids, count, score in self._rows("generate", texts):
            text = bytes(i - 3 for i in ids[:count].tolist() if 3 <= i < 259).decode(errors="ignore")
            yield {"prediction": text, "prediction_ids": ids[:count].tolist(), "score": float(score)}

    def score(self, inputs, targets):
        """Yields the log-probability of each target and its end, in nats."""
        yield from ({"score": float(score)} for (score,) in self._rows("score", inputs, targets))

    def _rows(self, function, *texts):
        size, keys = self.manifest["batch_size"], ("input_lengths", "target_lengths")
        for start in range(0, len(texts[0]), size):
            arrays = [self._pad(column[start : start + size], key) for column, key in zip(texts, keys, strict=False)]
            name = f"{function}_{arrays[0].shape[1]}.{self.platform}.jaxexport"
            if name not in self.programs:
                self.programs[name] = jax.jit(export.deserialize(bytearray((self.folder / name).read_bytes())).call)
            found = map(np.asarray, self.programs[name](self.params, *arrays))
            yield from list(zip(*found, strict=True))[: len(texts[0]) - start]

    def _pad(self, texts, key):
        lengths, rows = self.manifest[key], [[byte + 3 for byte in text.encode()] + [1] for text in texts]
        longest = max(map(len, rows))
        if longest > lengths[-1]:
            raise ValueError(f"a text of {longest - 1} bytes: exported for at most {lengths[-1] - 1}")
        length = min(n for n in lengths if n >= longest)
        rows += [[]] * (self.manifest["batch_size"] - len(rows))
        return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


if __name__ == "__main__":
    model, requests = ExportedModel(), [json.loads(line) for line in sys.stdin]
    made, scored = ([r for r in requests if ("targets" in r) == given] for given in (False, True))
    answers = [*model.generate([r["inputs"] for r in made])]
    answers += model.score([r["inputs"] for r in scored], [r["targets"] for r in scored])
    for request, answer in zip(made + scored, answers, strict=True):
        request.update(answer)
    print(*map(json.dumps, requests), sep="\n")
