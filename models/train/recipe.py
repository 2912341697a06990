"""From corpus to finished model directory in one command:

    python models/train/recipe.py --collected CORPUS --out runs

1. `runs/data`       documents, tokenizer, token files (once)
2. `runs/moe`        the model, and with --twin its dense twin: log.jsonl, checkpoint.pt
3. `runs/moe/model`  the Hugging Face directory

Killed at any time, the same command goes on from the last checkpoint.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import data
from export import export
from model import Shape
from train import Run, train


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run")
    add("--collected", type=Path, help="folder of the texts that corpus/collect.py made (needed once, for the token files)")
    add("--tokens", type=int, default=Run.tokens, help="length of the run; may still grow before the learning rate begins to fall")
    add("--seed", type=int, default=Run.seed)
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, help="threads of the CPU (default: all)")
    add("--twin", choices=("active", "total"), help="train the dense twin of as many active, or as many total, parameters")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    shape = Shape()
    tokens = args.out / "data"
    if not (tokens / "corpus.json").exists():
        if not args.collected:
            raise SystemExit("no token files yet: name the folder of collected texts with --collected (see README.md)")
        data.prepare(tokens, args.collected, shape.vocab)
    out = args.out / "moe"
    if args.twin:
        shape = shape.iso_active() if args.twin == "active" else shape.iso_total()
        out = args.out / f"iso-{args.twin}"
    model = train(shape, replace(Run(), tokens=args.tokens, seed=args.seed), tokens, out, args.device)
    if not shape.dense:
        export(model, tokens / "tokenizer.json", out / "model")
        print(f"wrote {out / 'model'}")


if __name__ == "__main__":
    main()
