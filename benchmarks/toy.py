"""Makes the toy that comes with the package: trains a tiny MrT5 to leave out vowels, and prints how good it is.

    python -m benchmarks.toy            # about ten minutes on one core; then mrt5_jax/toy is the new one
    python -m benchmarks.toy --measure  # only measures the one that is there

Of 2,000 unseen texts, under hard deletion: the share that is written without a mistake, decoding greedily; the share of
vowels that are deleted, and of deleted bytes that are vowels.
"""

import argparse
import dataclasses
import shutil
import sys
import time
from pathlib import Path

from benchmarks.machine import this_machine

PACKAGED = Path(__file__).resolve().parent.parent / "mrt5_jax" / "toy"
NUM_TEXTS = 2000
MOST_BYTES = 1_200_000
SEQUENCE_ACCURACY, VOWELS_DELETED = 0.95, 0.95
"""At least these, or nothing is replaced."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="train nothing")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work_dir", type=Path, default=Path("runs/toy"), help="MODEL_DIR of the training run")
    args = parser.parse_args()

    import mrt5_jax

    if args.measure:
        measure(mrt5_jax.load("toy"))
        return
    start = time.perf_counter()
    model = mrt5_jax.train(make_run(args.work_dir, args.steps, args.seed))
    print(f"{args.steps} steps in {time.perf_counter() - start:.0f} s")
    if not measure(model):
        sys.exit("not good enough: nothing is replaced")
    saved = args.work_dir.with_name(f"{args.work_dir.name}_weights")
    shutil.rmtree(saved, ignore_errors=True)
    model = dataclasses.replace(model, config_text="")
    model.save(saved)
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    print(f"{size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES:,} bytes: nothing is replaced")
    shutil.rmtree(PACKAGED, ignore_errors=True)
    shutil.copytree(saved, PACKAGED)


def make_run(model_dir: Path, steps: int, seed: int):
    """The quickstart's recipe on other texts: see gin_configs/runs/quickstart.gin for its reasons."""
    from mrt5_jax import config, presets
    from mrt5_jax.tasks import toy

    gate = config.GateConfig(layer=1, bias_init=4.0, threshold=-15.0)
    size = presets.mrt5(
        "tiny", emb_dim=64, head_dim=16, mlp_dim=128, dropout_rate=0.0, initialization="reference", gate=gate
    )
    return config.RunConfig(
        model_dir=str(model_dir),
        model=size,
        data=config.DataConfig(toy.TOY, (toy.TOY,), toy.LENGTH, toy.LENGTH, batch_size=64, eval_batch_size=64),
        training=config.TrainingConfig(steps, "auto", hard_probability=0.2, seed=seed, eval_every=500),
        loss=config.LossConfig(score_penalty=0.5, regularizer_delay=800),
        controller=config.ControllerConfig(target_deletion_rate=0.25),
        optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=100, schedule="cosine"),
        checkpoints=config.CheckpointConfig(every=500, keep=1),
        execution=config.ExecutionConfig(scan_unroll=3, max_rungs=3, log_every=50, chunks="auto"),
    )


def measure(model) -> bool:
    """Prints the quality on unseen texts; returns whether it is enough."""
    from mrt5_jax.tasks import toy

    texts = [toy.made_up_text((2, index)) for index in range(NUM_TEXTS)]
    written = model.generate(texts, batch_size=64)
    right = sum(found.text == toy.without_vowels(text) for found, text in zip(written, texts, strict=True)) / len(texts)
    vowels = [token + 3 for token in toy.VOWELS.encode()]
    tokens = [pair for found in model.deletions(texts) for pair in zip(found.ids, found.keep, strict=True)]
    fates = [kept for token, kept in tokens if token in vowels]
    deleted = [token for token, kept in tokens if not kept]
    rate = 1 - sum(fates) / len(fates)
    share = sum(token in vowels for token in deleted) / max(len(deleted), 1)
    print(f"{this_machine()}\n{len(texts):,} unseen texts, hard deletion")
    print(f"written without a mistake      {right:8.2%}   (at least {SEQUENCE_ACCURACY:.0%})")
    print(f"vowels that are deleted        {rate:8.2%}   of {len(fates):,} (at least {VOWELS_DELETED:.0%})")
    print(f"deleted ids that are vowels    {share:8.2%}   of {len(deleted):,}")
    print(f"all ids that are deleted       {len(deleted) / len(tokens):8.2%}   of {len(tokens):,}")
    return right >= SEQUENCE_ACCURACY and rate >= VOWELS_DELETED


if __name__ == "__main__":
    main()
