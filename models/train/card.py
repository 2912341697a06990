"""Writes the model card and its figures, so that no measured number in it is typed by hand:

    python models/train/card.py --model models/moebius-tiny

reads `measurements.json` of that directory and writes README.md, loss.svg and experts.svg beside it. Needs nothing
but the standard library. The prose is here; what it says of numbers comes from the measurements.
"""

import argparse
import json
import math
import textwrap
from pathlib import Path

import plots

LICENSES = Path(__file__).resolve().parent / "corpus" / "LICENSES.md"
COLUMNS = {"moe": "moebius-tiny", "iso-active": "dense, same active", "iso-total": "dense, same total"}
FAVOURITES = 5
LEAST_LIFT = 1.05
WIDTH = 120
SAMPLE_WIDTH = {"stories": 100, "tales": 100, "japanese": 50}
"""Where a sample's lines are broken; those of the other domains stay as they are."""

CARD = """# moebius-tiny
{draft}
The model that `moebius run` uses when none is named: a small Mixture-of-Experts model, trained from scratch, that fits
into a repository. It tells short stories; tales, Python functions, sums and Japanese stories give its experts something
to divide among themselves. It knows nothing.

| | |
|---|---|
{sizes}

## Files

`config.json`, `generation_config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json` are a Hugging
Face directory. `measurements.json` holds every number of this page and more; this page, `loss.svg` and `experts.svg`
are made from it. `eval/` holds five texts that the model has not read.

## Training

{training}

![Training and validation loss over the tokens read](loss.svg)

The recipe, from the texts to this page, is in [models/train](../train/README.md).

### Validation

Loss in nats per token, and perplexity, on held-out documents of each source, in windows of {context} tokens. A domain
is the mean of its sources, weighted as in the first phase of the training; beside it stands its share of the tokens in
each phase.

{validation}

{twins}

{sources}

### Arithmetic

{arithmetic}

## Perplexity and routing

Of the files of `eval/`, as `moebius score` computes them: windows of {context} tokens, each by itself, its first token
not scored.

{files}

{routing_intro}

{routing}

Experts that a file prefers: those that add most to the mutual information, each with its share in the file over its
mean share in all files.

{favourites}

![Which domain each expert works for](experts.svg)

The same figures from the engine:

```console
$ moebius score models/moebius-tiny/eval/*.txt --routing
```

`stories.txt`, `arithmetic.txt` and the greater part of `python.txt` and `japanese.txt` come from the generators that
made a part of the training text, with another seed, and hold no document of it. Their documents share plots and
phrases with those the model read, so their perplexity says how well the generator was learnt. `tales.txt`, and the
beginnings of `python.txt` and `japanese.txt`, were written by hand for this test.

## Samples

By the recipe's own code, after the prompt that stands in the heading; nothing was chosen among several. Long lines are
broken for this page.

{samples}

## Data and licence

The weights are under the project's licence, MIT or Apache-2.0 at your choice. They were trained on stories, Japanese
tales, Python functions and sums by the project's own generators, and on texts that others wrote, none of which is part
of the project:

{attribution}

Books of the public domain carry no obligation. [LICENSES.md](../train/corpus/LICENSES.md) names every source. The corpus
from which the {tokens} tokens were drawn, split by document:

{corpus}

## Limits

* {tokens} tokens are few. Stories are fluent where they follow the generators' plots and lose their thread elsewhere.
* Tales, Python and Japanese imitate the surface: names change, code need not run, and nothing said is a fact.
* It has not been taught to follow instructions, and there is no safety training. It is a test and teaching model.
* The context is {context} tokens, and most of the training saw windows of {length}.
* Tokens are bytes and pieces fitted to these sources; other languages fall apart into bytes.
* Routing and loss were measured on one run of one seed ({seed}); differences of a few hundredths between the models
  may be chance.
"""


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table; the columns after the first `left` are numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def millions(count: int, digits: int = 2) -> str:
    return f"{count / 1e6:.{digits}f} M"


def duration(seconds: int) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def sizes(model: dict) -> str:
    s, p = model["shape"], model["parameters"]
    heads = f"{s['heads']} attention heads on {s['kv_heads']} key/value heads of {s['head_dim']}"
    rows = [
        ["family", "`qwen3_moe`; loads in Hugging Face transformers unchanged"],
        ["parameters", f"{millions(p['total'])} in all, {millions(p['active'])} active per token, bf16"],
        ["layers", f"{s['layers']} of hidden size {s['hidden']}, {heads}"],
        ["experts", f"{s['experts']} of width {s['ffn']} in each layer; softmax, top-{s['top_k']}, renormalised"],
        ["vocabulary", f"{s['vocab']}, byte-level BPE of its own, every digit a token, tied embeddings"],
        ["context", f"{s['context']} tokens, RoPE with theta {s['rope_theta']:g}"],
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def training(measured: dict) -> str:
    model = measured["models"]["moe"]
    r, s = model["run"], model["shape"]
    on = f" on {measured['hardware']}" if measured["hardware"] else ""
    return paragraph(
        f"{millions(model['tokens'])} tokens in {model['steps']} steps of {r['tokens_per_step']}, "
        f"{duration(model['seconds'])}{on}. Muon for the matrices and AdamW for the rest; learning rate "
        f"{r['learning_rate']:g}, constant and then falling to zero over the last {r['decay']:.0%}; weight decay "
        f"{r['weight_decay']:g}; load-balancing loss {r['balance']:g}, router z-loss {r['z']:g}. Windows of "
        f"{r['length']} tokens, and of {s['context']} in the last {1 - r['long_from']:.0%}. The mixture "
        f"changes at token {', '.join(millions(p, 1) for p in r['phases'])}: sums get a larger part of it, and their "
        "answers count more in the gradients than their questions, which are random; later most windows begin with a "
        "document, the fifth phase turns to stories, and in the last, which has more Python, line ends are often tokens of "
        f"their own, as they are behind a prompt. Seed {r['seed']}. The "
        "dense twins differ in their feed-forward alone: same data in the same order, same optimiser, same schedule."
        + (f" {measured['note']}" if measured["note"] else "")
    )


def sources(model: dict) -> str:
    losses = [f"`{name}` {of['loss']:.3f}" for name, of in model["validation"]["sources"].items()]
    return paragraph(f"Loss of moebius-tiny by source: {', '.join(losses)}.")


def arithmetic(models: dict) -> str:
    kinds = models["moe"]["arithmetic"]
    rows = []
    for name, m in models.items():
        right = (m["arithmetic"][kind] for kind in kinds)
        rows.append([COLUMNS[name], *(f"{r['right']} of {r['of']} ({r['right'] / r['of']:.1%})" for r in right)])
    about = (
        "Greedy answers to questions such as `12+30=`, right only if the whole line is. Sums and differences are of "
        f"two numbers from 0 to 99, a random {kinds['sums']['of']} of each; products are all from 0 to 12 times 0 to "
        "12. Many of these very lines are in the training text, so this is partly recall. A question stands at the very "
        "beginning of the model's context; after other lines it does better."
    )
    return f"{paragraph(about)}\n\n{table(['model', *kinds], rows)}"


def validation(measured: dict) -> str:
    models = measured["models"]
    head = ["domain", "shares"] + [f"{COLUMNS[name]}: loss | perplexity" for name in models]
    head = " | ".join(head).split(" | ")

    def row(name: str, shares: list[float], parts: list[dict]) -> list[str]:
        return [name, ", ".join(f"{share:.0%}" for share in shares)] + [f"{p[k]:.{d}f}" for p in parts for k, d in (("loss", 3), ("perplexity", 2))]

    rows = [
        row(domain, shares, [m["validation"]["domains"][domain] for m in models.values()])
        for domain, shares in measured["mixture"].items()
    ]
    rows.append(row("all", [1.0], [m["validation"]["mixture"] for m in models.values()]))
    return table(head, rows)


def twins(models: dict) -> str:
    """What the twins are, and by how much the model is ahead of each or behind it."""
    own = models["moe"]["validation"]["mixture"]["loss"]
    rows = []
    for name, m in models.items():
        ahead = "" if name == "moe" else f"{m['validation']['mixture']['loss'] - own:+.3f}"
        p = m["parameters"]
        rows.append([COLUMNS[name], millions(p["total"]), millions(p["active"]), duration(m["seconds"]), ahead])
    return table(["model", "parameters", "active", "trained for", "loss above moebius-tiny's"], rows)


def files(models: dict) -> str:
    head = ["file", "tokens"] + [f"{COLUMNS[name]}: perplexity" for name in models]
    rows = []
    for domain, figures in models["moe"]["eval"].items():
        perplexities = [f"{m['eval'][domain]['perplexity']:.2f}" for m in models.values()]
        name = "all" if domain == "all" else f"`eval/{domain}.txt`"
        rows.append([name, str(figures["tokens"]), *perplexities])
    return table(head, rows)


def routing_intro(routing: dict) -> str:
    most = math.log(len(routing["domains"]))
    return paragraph(
        "Entropy of the experts' load (1 is even), load of the idlest and the busiest expert over the mean, unused "
        "experts, and mutual information of expert and file, all files weighted equally: 0 where every file uses the "
        f"experts alike, at most ln {len(routing['domains'])} = {most:.3f}."
    )


def routing(layers: list[dict]) -> str:
    head = ["layer", "entropy", "min/mean", "max/mean", "unused", "MI (nats)", "MI/max"]
    keys = ("normalized_entropy", "min_over_mean", "max_over_mean", "unused", "mutual_information_nats")
    rows = []
    for number, layer in enumerate(layers):
        values = [str(len(v)) if isinstance(v, list) else f"{v:.3f}" for v in (layer[key] for key in keys)]
        rows.append([str(number), *values, f"{layer['share_of_maximum']:.1%}"])
    return table(head, rows, 0)


def preferred(layer: dict, domain: int) -> list[tuple[int, float]]:
    """The domain's experts that add most to the mutual information, by their lift: as `moebius score` has them."""
    groups = layer["shares"]
    found = []
    for expert, share in enumerate(groups[domain]):
        mean = sum(shares[expert] for shares in groups) / len(groups)
        if mean > 0 and share > mean:
            found.append((share * math.log(share / mean), expert, share / mean))
    most = [(expert, lift) for _, expert, lift in sorted(found, reverse=True)[:FAVOURITES] if lift >= LEAST_LIFT]
    return sorted(most, key=lambda named: -named[1])


def favourites(measured: dict) -> str:
    domains, rows = measured["domains"], []
    for place, domain in enumerate(domains):
        by_layer = (preferred(layer, place) for layer in measured["layers"])
        rows.append([domain, *(", ".join(f"e{e:02} x{lift:.1f}" for e, lift in named) or "none" for named in by_layer)])
    head = ["file"] + [f"layer {number}" for number in range(len(measured["layers"]))]
    return table(head, rows, len(head))


def samples(measured: list[dict]) -> str:
    parts = []
    for s in measured:
        how = f"temperature {s['temperature']:g}, seed {s['seed']}" if s["temperature"] else "greedy"
        prompt = s["prompt"].replace("\n", "\\n")
        text = s["prompt"] + s["text"] + ("" if s["ended"] else " ...")
        width = SAMPLE_WIDTH.get(s["domain"])
        lines = [part for line in text.rstrip().split("\n") for part in (textwrap.wrap(line, width or WIDTH) or [""])]
        text = "\n".join(lines) if width else text.rstrip()
        parts.append(f"### {s['domain']}: `{prompt}` ({how})\n\n````text\n{text}\n````")
    return "\n\n".join(parts)


def attribution() -> str:
    """What the sources ask to be said of them: the quotation in LICENSES.md, so that it is worded in one place."""
    lines = LICENSES.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith(">"))


def corpus(counted: dict) -> str:
    rows = []
    for name in dict.fromkeys(key.split(".")[0] for key in counted):
        training, held_out = counted[f"{name}.train"], counted[f"{name}.validation"]
        figures = [f"{training['bytes'] / 1e6:.1f} MB", millions(training["tokens"]), str(training["documents"])]
        rows.append([f"`{name}`", *figures, str(held_out["documents"]), f"{held_out['tokens'] / 1e3:.0f} k"])
    return table(["source", "training text", "tokens", "documents", "held out", "tokens held out"], rows)


def card(measured: dict) -> str:
    models = measured["models"]
    moe = models["moe"]
    unfinished = {name: m for name, m in models.items() if m["steps"] < m["planned_steps"]}
    steps = [f"{name} after step {m['steps']} of {m['planned_steps']}" for name, m in unfinished.items()]
    draft = f"\n**Draft: {', '.join(steps)}.**\n" if steps else ""
    return CARD.format(
        draft=draft,
        sizes=sizes(moe),
        training=training(measured),
        validation=validation(measured),
        twins=twins(models),
        sources=sources(moe),
        arithmetic=arithmetic(models),
        files=files(models),
        routing_intro=routing_intro(measured["routing"]),
        routing=routing(measured["routing"]["layers"]),
        favourites=favourites(measured["routing"]),
        samples=samples(measured["samples"]),
        attribution=attribution(),
        corpus=corpus(measured["corpus"]),
        tokens=millions(moe["tokens"], 1),
        context=moe["shape"]["context"],
        length=moe["run"]["length"],
        seed=moe["run"]["seed"],
    )


def made(measured: dict) -> dict[str, str]:
    """Every file that is made from the measurements, with its content."""
    figures = {"loss.svg": plots.loss(measured["models"]), "experts.svg": plots.experts(measured["routing"])}
    return {"README.md": card(measured)} | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "moebius-tiny"
    parser.add_argument("--model", type=Path, default=default, help="directory with measurements.json")
    directory = parser.parse_args().model
    measured = json.loads((directory / "measurements.json").read_text(encoding="utf-8"))
    for name, content in made(measured).items():
        (directory / name).write_text(content, encoding="utf-8", newline="\n")
        print(f"wrote {directory / name}")


if __name__ == "__main__":
    main()
