"""What drafts save of greedy decoding: `python -m benchmarks.drafts --model_dir=runs/spelling --input=in.jsonl`.

Requests, as `mrt5 infer` reads them, are answered by greedy search and by speculative search with drafts of several
lengths, which take turns. Wherever the ids of an answer are not greedy's, the two at the first difference should be as
good as equally probable (a near-tie, 1e-4 nats), since products over several positions round otherwise. Steps are those
until a row ends, summed over rows; a batch takes those of its last row, so the share of seconds is smaller.
"""

from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser  # first: it sets the allocator

# isort: split
import json
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.machine import this_machine
from benchmarks.serving import NEAR_TIE, gap_at_difference
from mrt5_jax.api.loading import load
from mrt5_jax.api.model import Model
from mrt5_jax.inference.decoding import Greedy, Search
from mrt5_jax.inference.requests import Request, read_requests
from mrt5_jax.inference.speculative import Speculative

GREEDY = "greedy"
Answers = list[dict[str, Any]]


def main() -> None:
    parser = contest_parser(__doc__, rounds=3)
    parser.add_argument("--model_dir", required=True, help="whatever mrt5 infer takes")
    parser.add_argument("--input", required=True, metavar="FILE", help="requests, JSON lines or Parquet")
    parser.add_argument("--lines", type=int, default=2000, help="the first so many are answered (default: 2000)")
    parser.add_argument("--draft_lengths", type=int, nargs="+", default=[4, 8, 16], help="(default: 4 8 16)")
    parser.add_argument("--batch_size", type=int, default=16, help="lines at once on each device (default: 16)")
    args = parser.parse_args()

    model = load(args.model_dir)
    limits = model.job("predict", truncate=True).limits
    requests = list(islice(read_requests(args.input, "predict", limits), args.lines))
    found: dict[str, Answers] = {}

    def contestant(name: str, search: Search) -> Contestant:
        job = model.job("predict", search=search, batch_size=args.batch_size, truncate=True)

        def run() -> None:
            found[name] = [answer for window in job.answers_to(requests) for answer in window]

        return Contestant(run, 0.0)

    searches: dict[str, Search] = {GREEDY: Greedy()}
    searches |= {f"drafts of {length}": Speculative(length) for length in args.draft_lengths}
    results = compete({name: contestant(name, search) for name, search in searches.items()}, args.rounds, args.only)

    table = Table("", "median s", "range", "seconds saved", "ids", "steps", "steps saved", "other ids", "no near-tie")
    base, rows = results.get(GREEDY), []
    for name, result in results.items():
        num_ids = sum(len(answer["prediction_ids"] or ()) for answer in found[name])
        steps = sum(answer.get("num_steps") or 0 for answer in found[name]) if name != GREEDY else num_ids
        saved = None if base is None else 1 - result.median / base.median
        other, wrong = differences(model, requests, found.get(GREEDY, found[name]), found[name])
        rows.append({"name": name, "seconds": result.seconds, "ids": num_ids, "steps": steps, "other_ids": other})
        table.add_row(
            name,
            f"{result.median:.3f}",
            f"{min(result.seconds):.3f} to {max(result.seconds):.3f}",
            "" if saved is None else f"{saved:.0%}",
            str(num_ids),
            str(steps),
            f"{1 - steps / max(num_ids, 1):.0%}",
            str(other),
            str(wrong),
        )
    CONSOLE.print(table)
    CONSOLE.print(f"{len(requests)} lines of {args.input}, {args.batch_size} at once on a device. {this_machine()}")
    if args.json:
        figures = {"machine": this_machine()._asdict(), "lines": len(requests), "results": rows}
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
        CONSOLE.print(f"figures: {args.json}")


def differences(model: Model, requests: list[Request], expected: Answers, answers: Answers) -> tuple[int, int]:
    """Counts answers with other ids than expected, and those of them that differ before a near-tie."""
    differing = [
        (given, tuple(one["prediction_ids"] or ()), tuple(other["prediction_ids"] or ()))
        for given, one, other in zip(requests, expected, answers, strict=True)
        if one["prediction_ids"] != other["prediction_ids"]
    ]
    return len(differing), sum(gap_at_difference(model, *one) > NEAR_TIE for one in differing)


if __name__ == "__main__":
    main()
