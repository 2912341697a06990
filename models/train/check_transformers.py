"""Compares the exported model in Hugging Face transformers with the recipe's own, in float32, on the texts of `eval`:

    python models/train/check_transformers.py --model models/moebius-tiny

Prints the largest difference of a logit for each text, and fails where it reaches 1e-3 or the tokens differ.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from export import read
from heldout import DOMAINS, EVAL
from model import Model

LARGEST_DIFFERENCE = 1e-3


@torch.no_grad()
def compare(ours: Model, theirs, ids: list[int]) -> tuple[float, int, int]:
    """Over windows of the context: the largest difference, how often the likeliest token is the same, and tokens."""
    largest, same = 0.0, 0
    for start in range(0, len(ids), ours.shape.context):
        window = torch.tensor([ids[start : start + ours.shape.context]])
        a, b = ours.logits(ours(window)[0]), theirs(window).logits
        largest = max(largest, (a - b).abs().max().item())
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
    return largest, same, len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EVAL.parent, help="exported model directory")
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ours, tokenizer = read(args.model), Tokenizer.from_file(str(args.model / "tokenizer.json"))
    theirs = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(args.model)
    wrong = []
    print(f"{'text':<12}{'tokens':>8}{'largest difference':>20}{'same likeliest':>16}")
    for domain in DOMAINS:
        text = (EVAL / f"{domain}.txt").read_text(encoding="utf-8")
        ids = tokenizer.encode(text).ids
        largest, same, tokens = compare(ours, theirs, ids)
        print(f"{domain:<12}{tokens:>8}{largest:>20.2e}{same / tokens:>16.2%}")
        if largest >= LARGEST_DIFFERENCE:
            wrong.append(f"{domain}: a logit differs by {largest:.2e}")
        if their_tokenizer(text)["input_ids"] != ids:
            wrong.append(f"{domain}: the tokens differ")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
