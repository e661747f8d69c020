"""What hard deletion saves in transformers: time of an exported MrT5's encoder, as a ratio to no deletion.

    python -m benchmarks.transformers_deletion

Needs torch and transformers alone. Half of every row's positions are deleted by rule before layer 3 of 12, in rows of
1024 bytes; the two take turns, and ratios are of a pair.
"""

import argparse
import statistics
import time


def main() -> None:
    """Prints the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()

    import torch
    import transformers

    from mrt5_jax.interop.modeling_mrt5 import MrT5Config, MrT5ForConditionalGeneration

    config = MrT5Config(
        vocab_size=384,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=12,
        num_decoder_layers=1,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        delete_gate_layer=3,
        sigmoid_mask_scale=-30.0,
        deletion_type="fixed",
        fixed_deletion_amount=0.5,
        use_softmax1=True,
    )
    torch.manual_seed(0)
    encoder = MrT5ForConditionalGeneration(config).eval().encoder
    ids = torch.randint(100, 126, (args.rows, args.length))  # letters alone: one segment a row

    def seconds(deletion: str) -> float:
        begun = time.perf_counter()
        with torch.no_grad():
            encoder(input_ids=ids, deletion=deletion)
        return time.perf_counter() - begun

    with torch.no_grad():
        kept = encoder(input_ids=ids, deletion="hard").kept_mask.float().mean()
    seconds("none")
    pairs = [(seconds("none"), seconds("hard")) for _ in range(args.pairs)]
    ratios = [hard / none for none, hard in pairs]
    medians = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    print(f"kept {kept:.2f}; none {medians[0]:.0f} ms, hard {medians[1]:.0f} ms")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {args.pairs} pairs)")


if __name__ == "__main__":
    main()
