"""Measures the finished model and its dense twins, and writes `measurements.json` into the model's directory:

    python models/train/measure.py --runs runs --model models/moebius-tiny

`runs` holds the folders of the recipe: `data`, `moe`, and those of the twins that were trained. Everything is
computed in float32 from weights rounded to bf16, as the model ships them; the twins are rounded likewise.
"""

import argparse
import json
import math
import random
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from data import SOURCES, Windows, domains
from export import read, tensors
from heldout import DOMAINS, EVAL
from model import Model, Shape

WINDOWS_AT_ONCE = 8
PROBLEMS = 500
PROBLEM_SEED = 1
LONGEST_ANSWER = 5
SAMPLE_TOKENS = 120
SAMPLES = ((0.0, 0), (0.7, 1))
"""Temperature and seed of each sample; 0 is greedy."""
PROMPTS = {
    "stories": "Once upon a time, there was a little",
    "tales": "There was once a king who",
    "python": "def add(a, b):\n",
    "arithmetic": "12+30=",
    "japanese": "むかしむかし、",
}


# ---------------------------------------------------------------- models


def trained(run: Path) -> tuple[Model, dict]:
    """A run's model, rounded to bf16, and what is known of the run."""
    about = json.loads((run / "run.json").read_text())
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    shape = Shape(**about["shape"])
    model = Model(shape)
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in state["model"].items()})
    total, active = shape.parameters()
    steps, planned = state["progress"]["step"], about["run"]["tokens"] // about["run"]["tokens_per_step"]
    facts = dict(parameters=dict(total=total, active=active), shape=asdict(shape), run=about["run"])
    facts |= dict(steps=steps, planned_steps=planned, tokens=steps * about["run"]["tokens_per_step"])
    return model, facts | dict(seconds=round(state["progress"]["seconds"]), curve=curve(run / "log.jsonl"))


def shipped(directory: Path, of_run: Model) -> Model:
    """The exported model; an error where it is not the run's, so that no figure describes another model."""
    model = read(directory)
    if model.shape != of_run.shape:
        raise SystemExit(f"`{directory}` holds {model.shape}, and the run's checkpoint {of_run.shape}")
    expected = tensors(of_run)
    if any(not torch.equal(weight, expected[name]) for name, weight in tensors(model).items()):
        raise SystemExit(f"`{directory}` does not hold the weights of the run's checkpoint; export it again")
    return model


def curve(log: Path) -> dict[str, list]:
    """The training loss and, weighted like the first phase, the validation loss over the run's tokens."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return dict(
        training=[[e["tokens"], e["loss"]] for e in entries if "loss" in e],
        validation=[[e["tokens"], round(mixture(e["validation"]), 4)] for e in entries if "validation" in e],
    )


def mixture(losses: dict[str, float], domain: str | None = None) -> float:
    """The mean over sources, of one domain or all, in the proportions of the first phase."""
    names = [name for name in losses if domain in (None, SOURCES[name].domain)]
    return sum(SOURCES[n].shares[0] * losses[n] for n in names) / sum(SOURCES[n].shares[0] for n in names)


def shares() -> dict[str, list[float]]:
    """What share of the training tokens each domain has in each phase."""
    of = {d: np.array([s.shares for s in SOURCES.values() if s.domain == d]).sum(0) for d in domains()}
    return {d: [round(float(share), 4) for share in shares] for d, shares in of.items()}


# ---------------------------------------------------------------- loss


@torch.no_grad()
def read_windows(model: Model, rows: torch.Tensor) -> tuple[torch.Tensor, list]:
    """rows [B, T] -> the loss of every token but each row's first [B, T - 1], and the choices by layer [B * T, k]."""
    hidden, _, _, choices = model(rows)
    logits = model.logits(hidden[:, :-1])
    return F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none"), choices


def figures(total: float, tokens: int) -> dict:
    loss = total / tokens
    return dict(tokens=tokens, loss=round(loss, 6), perplexity=round(math.exp(loss), 4))


@torch.no_grad()
def stream_loss(model: Model, stream: np.ndarray) -> dict:
    """Of a source's held-out tokens in windows of the context; each window predicts the token after it too."""
    length = model.shape.context
    count = (len(stream) - 1) // length
    rows = np.stack([stream[i * length : (i + 1) * length + 1] for i in range(count)]).astype(np.int64)
    total = 0.0
    for part in torch.from_numpy(rows).split(WINDOWS_AT_ONCE):
        logits = model.logits(model(part[:, :-1])[0])
        total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return figures(total, count * length)


def validation(model: Model, windows: Windows) -> dict:
    sources = {name: stream_loss(model, windows.held_out[name]) for name in windows.names}
    losses = {name: of_source["loss"] for name, of_source in sources.items()}

    def mean(domain: str | None = None) -> dict:
        loss = mixture(losses, domain)
        return dict(loss=round(loss, 6), perplexity=round(math.exp(loss), 4))

    return dict(sources=sources, domains={domain: mean(domain) for domain in domains()}, mixture=mean())


def score_file(model: Model, tokenizer: Tokenizer, path: Path) -> tuple[dict, list[torch.Tensor]]:
    """As `moebius score` does it: consecutive windows of the context, each by itself, its first token unscored.

    Returns the figures, and how many of the file's tokens went to each expert, by layer [E].
    """
    ids = tokenizer.encode(path.read_text(encoding="utf-8")).ids
    total, scored = 0.0, 0
    loads = [torch.zeros(model.shape.experts, dtype=torch.long) for _ in model.blocks]
    for start in range(0, len(ids), model.shape.context):
        window = torch.tensor([ids[start : start + model.shape.context]])
        if window.shape[1] < 2:
            continue
        losses, choices = read_windows(model, window)
        total, scored = total + losses.double().sum().item(), scored + losses.numel()
        for load, chosen in zip(loads, choices):
            if chosen is not None:
                load += torch.bincount(chosen.flatten(), minlength=len(load))
    return figures(total, scored) | dict(tokens=len(ids), scored=scored, bytes=path.stat().st_size), loads


def together(files: list[dict]) -> dict:
    """The figures of several files as one text: the mean is over all their scored tokens."""
    tokens, scored, size = (sum(f[key] for f in files) for key in ("tokens", "scored", "bytes"))
    total = sum(f["loss"] * f["scored"] for f in files)
    return figures(total, scored) | dict(tokens=tokens, scored=scored, bytes=size)


# ---------------------------------------------------------------- routing


def specialisation(counts: np.ndarray) -> dict:
    """Of one layer's load [domains, experts], each domain weighted equally.

    Mutual information of expert and domain: the mean over domains g of sum_e P(e|g) ln(P(e|g) / P(e)).
    """
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares.mean(0)
    lift = np.divide(shares, mean, out=np.zeros_like(shares), where=mean > 0)
    terms = shares * np.log(lift, out=np.zeros_like(lift), where=lift > 0)
    load = counts.sum(0)
    p = load[load > 0] / load.sum()
    information = terms.sum(1).mean()
    favourites = [
        dict(expert=e, domain=DOMAINS[int(lift[:, e].argmax())], lift=round(float(lift[:, e].max()), 3))
        for e in range(len(mean))
        if mean[e] > 0
    ]
    return dict(
        normalized_entropy=round(float(-(p * np.log(p)).sum() / math.log(len(load))), 4),
        min_over_mean=round(float(load.min() / load.mean()), 4),
        max_over_mean=round(float(load.max() / load.mean()), 4),
        unused=[int(e) for e in np.flatnonzero(load == 0)],
        mutual_information_nats=round(float(information), 4),
        share_of_maximum=round(float(information / math.log(len(shares))), 4),
        favourites=favourites,
        shares=np.round(shares, 5).tolist(),
    )


# ---------------------------------------------------------------- text


@torch.no_grad()
def proceed(model: Model, ids: torch.Tensor, count: int, temperature: float = 0.0, seed: int = 0) -> torch.Tensor:
    """ids [B, T] and the next `count` tokens of each row, greedy at temperature 0."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        logits = model.logits(model(ids)[0][:, -1])
        if temperature:
            following = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            following = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    return ids


def samples(model: Model, tokenizer: Tokenizer) -> list[dict]:
    """One continuation of each domain's prompt for each temperature, up to the end of the text."""
    made = []
    for domain, prompt in PROMPTS.items():
        ids = tokenizer.encode(prompt).ids
        for temperature, seed in SAMPLES:
            row = proceed(model, torch.tensor([ids]), SAMPLE_TOKENS, temperature, seed)[0, len(ids) :].tolist()
            ended = 0 in row
            text = tokenizer.decode(row[: row.index(0)] if ended else row)
            about = dict(domain=domain, prompt=prompt, temperature=temperature, seed=seed)
            made.append(about | dict(text=text.removesuffix("\ufffd"), ended=ended))
    return made


def problems() -> dict[str, list[tuple[str, str]]]:
    """Questions in tight form with their answers; of products there are only so many, so all of them."""
    rng = random.Random(PROBLEM_SEED)
    pairs = [(rng.randint(0, 99), rng.randint(0, 99)) for _ in range(PROBLEMS)]
    factors = [(a, b) for a in range(13) for b in range(13)]
    return dict(
        sums=[(f"{a}+{b}=", f"{a + b}") for a, b in pairs],
        differences=[(f"{max(p)}-{min(p)}=", f"{max(p) - min(p)}") for p in pairs],
        products=[(f"{a}*{b}=", f"{a * b}") for a, b in factors],
    )


def answers(model: Model, tokenizer: Tokenizer, questions: list[str]) -> list[str]:
    """The greedy continuation of each question up to the end of its line; questions of one length go together."""
    by_length: dict[int, list[tuple[int, list[int]]]] = {}
    for place, question in enumerate(questions):
        ids = tokenizer.encode(question).ids
        by_length.setdefault(len(ids), []).append((place, ids))
    given = [""] * len(questions)
    for length, group in by_length.items():
        rows = proceed(model, torch.tensor([ids for _, ids in group]), LONGEST_ANSWER)[:, length:].tolist()
        for (place, _), row in zip(group, rows):
            row = row[: row.index(0)] if 0 in row else row
            given[place] = tokenizer.decode(row).split("\n")[0]
    return given


def arithmetic(model: Model, tokenizer: Tokenizer) -> dict:
    result = {}
    for kind, asked in problems().items():
        given = answers(model, tokenizer, [question for question, _ in asked])
        result[kind] = dict(right=sum(g == answer for g, (_, answer) in zip(given, asked)), of=len(asked))
    return result


# ---------------------------------------------------------------- all of it


def measured(model: Model, windows: Windows, tokenizer: Tokenizer) -> tuple[dict, list[np.ndarray]]:
    """A model's losses and right answers, and its loads by layer [domains, experts]."""
    files, loads = {}, []
    for domain in DOMAINS:
        files[domain], load = score_file(model, tokenizer, EVAL / f"{domain}.txt")
        loads.append(load)
    files["all"] = together(list(files.values()))
    result = dict(validation=validation(model, windows), eval=files, arithmetic=arithmetic(model, tokenizer))
    return result, [torch.stack(layer).numpy() for layer in zip(*loads)]


def write(path: Path, content: dict) -> None:
    """JSON with every list of numbers on one line, for its readers."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    one_line = re.sub(r"\[\n([\s\d.,e+-]+)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.write_text(one_line + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", type=Path, required=True, help="folder that recipe.py wrote")
    add("--model", type=Path, default=EVAL.parent, help="exported model directory; gets measurements.json")
    add("--hardware", default="", help="in words, what the runs were trained on, for the model card")
    add("--note", default="", help="what else the model card should say of the training")
    add("--threads", type=int, help="threads of the CPU (default: all)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    windows = Windows(args.runs / "data", seed=0)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    if tokenizer.to_str() != Tokenizer.from_file(str(args.runs / "data" / "tokenizer.json")).to_str():
        raise SystemExit(f"the tokenizer in `{args.model}` is not the one of the runs; export the model again")
    models, loads = {}, []
    for name in ("moe", "iso-active", "iso-total"):
        if not (args.runs / name / "checkpoint.pt").exists():
            continue
        model, models[name] = trained(args.runs / name)
        if name == "moe":
            moe = model = shipped(args.model, model)
        result, by_layer = measured(model, windows, tokenizer)
        models[name] |= result
        loads = loads or by_layer
        print(f"{name}: validation loss {result['validation']['mixture']['loss']}")
    routing = dict(domains=list(DOMAINS), layers=[specialisation(layer) for layer in loads])
    corpus = json.loads((args.runs / "data" / "corpus.json").read_text())["sources"]
    content = dict(hardware=args.hardware, note=args.note, mixture=shares(), models=models, routing=routing)
    write(args.model / "measurements.json", content | dict(samples=samples(moe, tokenizer), corpus=corpus))
    print(f"wrote {args.model / 'measurements.json'}")


if __name__ == "__main__":
    main()
