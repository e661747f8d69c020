"""Compares files of answers: `python -m benchmarks.same_answers ONE OTHER ... --model_dir=MODEL_DIR --input=in.jsonl`.

Files are what `mrt5 infer` writes, or the answers that `mrt5 eval --generate` and `--labels` keep. Each is compared
with the first: the order of what was asked, the ids, and the scores of answers with the same ids. Where ids differ, the
two at the first difference should be as good as equally probable (a near-tie, 1e-4 nats), which needs the model and the
requests that the lines of `mrt5 infer` answer; answers of a beam by their scores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving import NEAR_TIE, gap_at_difference
from mrt5_jax.api.loading import load
from mrt5_jax.inference.requests import Request, read_requests

Answer = dict[str, Any]

_ANSWERED = {"prediction", "prediction_ids", "score", "num_steps"}


def read_answers(path: str) -> list[Answer]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def asked(answer: Answer) -> Answer:
    """Returns what a line says of what was asked, and what the model keeps of it."""
    return {name: value for name, value in answer.items() if name not in _ANSWERED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model_dir", help="of the model that answered")
    parser.add_argument("--input", metavar="FILE", help="the requests, as mrt5 infer read them")
    parser.add_argument("--by_score", action="store_true", help="answers of a beam: equally good where scores are")
    args = parser.parse_args()

    model = load(args.model_dir) if args.model_dir else None
    requests: list[Request] = []
    if model is not None and args.input:
        limits = model.job("predict", truncate=True).limits
        requests = list(read_requests(args.input, "predict", limits))
    first, *others = map(read_answers, args.files)
    table = Table("", "answers", "same order", "other ids", "no near-tie", "largest difference of scores")
    for name, found in zip(args.files[1:], others, strict=True):
        pairs = enumerate(zip(first, found, strict=True))
        differing = [place for place, (one, other) in pairs if ids_of(one) != ids_of(other)]
        wrong: int | str = len(differing)
        if args.by_score:
            wrong = sum(abs(first[place]["score"] - found[place]["score"]) > NEAR_TIE for place in differing)
        elif model is not None and requests:
            wrong = sum(
                gap_at_difference(model, requests[place], ids_of(first[place]), ids_of(found[place])) > NEAR_TIE
                for place in differing
            )
        same = [place for place in range(len(first)) if place not in set(differing)]
        scores = max((abs(first[place]["score"] - found[place]["score"]) for place in same), default=0.0)
        table.add_row(
            name,
            str(len(found)),
            str(list(map(asked, first)) == list(map(asked, found))),
            str(len(differing)),
            str(wrong),
            f"{scores:.1e}",
        )
    Console(width=160).print(table)


def ids_of(answer: Answer) -> tuple[int, ...]:
    return tuple(answer.get("prediction_ids") or ())


if __name__ == "__main__":
    main()
