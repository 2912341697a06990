#!/usr/bin/env python3
"""Makes the router conformance kit: one JSON file for each published router formula.

The formulas are written here from their papers and reference implementations, in float64 and plain Python, one
token at a time, with full sorts. README.md says what the files mean.
"""

import argparse
import json
import math
import random
from pathlib import Path

# Choices are by at least this much: absolute, or relative where scores are ranked as they are.
MARGIN = 1e-3
# What float32 may not tell from 0.
TINY = 1e-30
DEEPSEEK_EPS = 1e-20

DEFAULTS = {
    "num_experts": None,
    "num_experts_per_tok": None,
    "scoring_func": "softmax",
    "router_jitter_noise": None,
    "topk_method": "greedy",
    "n_group": None,
    "topk_group": None,
    "group_score": None,
    "e_score_correction_bias": None,
    "norm_topk_prob": False,
    "norm_eps": None,
    "norm_min": None,
    "routed_scaling_factor": 1.0,
    "per_expert_scale": None,
    "weight_target": "output",
}


class Undecided(Exception):
    """An answer that rounding could turn."""


def softmax(values):
    top = max(values)
    terms = [math.exp(v - top) for v in values]
    total = math.fsum(terms)
    return [t / total for t in terms]


def sigmoid(value):
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def best(ranked, k, distance):
    """The ids of the `k` best of `{id: (rank, what it was made of)}`, and whether a tie was broken, to the lower id."""
    order = sorted(ranked, key=lambda i: (-ranked[i][0], i))
    tied = False
    for a in order[:k]:
        for b in order[k:]:
            (x, made_of_x), (y, made_of_y) = ranked[a], ranked[b]
            if made_of_x == made_of_y:
                tied = True
            elif distance(x, y) < MARGIN:
                raise Undecided
    return order[:k], tied


def absolute(a, b):
    return abs(a - b)


def relative(a, b):
    """For scores that may be tiny; of those that float32 cannot tell from 0, none."""
    larger = max(abs(a), abs(b))
    return abs(a - b) / larger if larger > TINY else 0.0


def choose(config, ranks, distance):
    """The chosen experts of `[(rank, what it was made of)]` and whether a tie was broken."""
    n, k = config["num_experts"], config["num_experts_per_tok"]
    by_id = dict(enumerate(ranks))
    if config["topk_method"] == "greedy":
        return best(by_id, k, distance)
    if config["topk_method"] == "one_per_group":
        size = n // k
        picks = [best({i: by_id[i] for i in range(g * size, (g + 1) * size)}, 1, distance) for g in range(k)]
        return [ids[0] for ids, _ in picks], any(tied for _, tied in picks)
    size = n // config["n_group"]
    count = {"max": 1, "top_two_sum": 2}[config["group_score"]]
    members = [range(g * size, (g + 1) * size) for g in range(config["n_group"])]
    groups = {}
    for g, ids in enumerate(members):
        leaders = sorted((ranks[i] for i in ids), reverse=True)[:count]
        groups[g] = sum(rank for rank, _ in leaders), [made_of for _, made_of in leaders]
    kept, tied_groups = best(groups, config["topk_group"], distance)
    ids, tied = best({i: by_id[i] for g in kept for i in members[g]}, k, distance)
    return ids, tied or tied_groups


def sparse_mixer(config, row):
    """Two experts, each weighted by its softmax among those that are close enough to it."""
    limit = 2 * config["router_jitter_noise"]
    left, weights, tied = {i: (logit, logit) for i, logit in enumerate(row)}, {}, False
    for _ in range(2):
        (winner,), tie = best(left, 1, absolute)
        tied |= tie
        top, close = row[winner], []
        for logit, _ in left.values():
            far = 0.0 if logit == top else (top - logit) / max(abs(logit), top)
            if abs(far - limit) < MARGIN:
                raise Undecided
            if far <= limit:
                close.append(math.exp(logit - top))
        weights[winner] = 1 / math.fsum(close)
        del left[winner]
    return weights, tied


def route(config, row):
    """Experts in ascending id, their weights, and whether a tie was broken."""
    bias = config["e_score_correction_bias"]
    if config["scoring_func"] == "sparse_mixer":
        scores, tied = sparse_mixer(config, row)
        ids = list(scores)
    elif config["scoring_func"] == "softmax_over_top_k":
        ids, tied = choose(config, [(logit, logit) for logit in row], absolute)
        scores = dict(zip(ids, softmax([row[i] for i in ids])))
    else:
        scores = softmax(row) if config["scoring_func"] == "softmax" else [sigmoid(v) for v in row]
        ranks, made_of, distance = scores, row, relative
        if bias is not None:
            ranks, made_of, distance = [s + b for s, b in zip(scores, bias)], list(zip(row, bias)), absolute
        if config["weight_target"] == "input":
            ranks, distance = row, absolute
        ids, tied = choose(config, list(zip(ranks, made_of)), distance)
    ids = sorted(ids)
    weights = [scores[i] for i in ids]
    if config["norm_topk_prob"]:
        total, eps, least = math.fsum(weights), config["norm_eps"], config["norm_min"]
        if total < TINY and max(eps or 0, least or 0) < TINY:
            raise Undecided
        divisor = total + eps if least is None else max(total, least)
        weights = [w / divisor for w in weights]
    factors = config["per_expert_scale"] or [1.0] * config["num_experts"]
    return ids, [w * config["routed_scaling_factor"] * factors[i] for w, i in zip(weights, ids)], tied


class Numbers:
    """Random numbers that float32 and short decimals hold exactly."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def row(self, n, low, high):
        return [self.random.randint(int(low * 64), int(high * 64)) / 64 for _ in range(n)]


def edge_rows(config, numbers):
    """Rows with a reason: (what they show, logits)."""
    n = config["num_experts"]
    ramp = [(i * 7 % n) / 4 for i in range(n)]
    size = n // (config["n_group"] or 4) if n % (config["n_group"] or 4) == 0 else n
    rows = [
        ("all logits equal", [0.5] * n),
        ("two equal logits for every expert", [float(i // 2 * 5 % n) / 4 for i in range(n)]),
        ("all groups equal", [float(i % size) / 2 for i in range(n)]),
        ("all logits negative", [-9.0 - v for v in ramp]),
        ("one logit far above the rest", [60.0 if i == n // 2 else v / 4 for i, v in enumerate(ramp)]),
        ("large logits", [v * 8 + 40 for v in ramp]),
        ("large negative logits", [v * 8 - 8.0 * n for v in ramp]),
        ("zeros among negative logits", [0.0 if i in (1, n - 1) else -1.0 - v for i, v in enumerate(ramp)]),
    ]
    return rows + [("tiny scores", numbers.row(n, -18, -12))]


def case(name, seed, n_random=6, **settings):
    """One configuration with random rows and every edge row that leaves no doubt."""
    config = {**DEFAULTS, **settings}
    numbers = Numbers(seed)
    answers = []
    while len(answers) < n_random:
        row = numbers.row(config["num_experts"], -4, 4)
        try:
            answer = route(config, row)
        except Undecided:
            continue
        if not answer[2]:
            answers.append(("random", row, answer))
    for note, row in edge_rows(config, numbers):
        try:
            answers.append((note, row, route(config, row)))
        except Undecided:
            continue
    return {
        "name": name,
        "config": config,
        "notes": [note for note, _, _ in answers],
        "tied": [tied for _, _, (_, _, tied) in answers],
        "logits": [row for _, row, _ in answers],
        "experts": [ids for _, _, (ids, _, _) in answers],
        "weights": [[float(f"{weight:.12g}") for weight in weights] for _, _, (_, weights, _) in answers],
    }


def sizes(n, k):
    return {"num_experts": n, "num_experts_per_tok": k}


def groups(n, keep, score):
    return {"topk_method": "group_limited", "n_group": n, "topk_group": keep, "group_score": score}


def biased(seed, n, low, high):
    return {"e_score_correction_bias": Numbers(seed).row(n, low, high)}


NORM = {"norm_topk_prob": True, "norm_eps": 0.0}
NORM_DEEPSEEK = {"norm_topk_prob": True, "norm_eps": DEEPSEEK_EPS}
SIGMOID = {"scoring_func": "sigmoid"}


def softmax_files():
    yield "R1", "softmax_top_k", "softmax over all experts, the k largest, over their sum", [
        case("few wide experts (mixtral)", 101, **sizes(8, 2), **NORM),
        case("many narrow experts (qwen3_moe, qwen3_next, hunyuan_v1_moe)", 102, **sizes(32, 8), **NORM),
        case("one expert: its weight is 1", 103, **sizes(5, 1), **NORM),
        case("all experts", 104, **sizes(4, 4), **NORM),
    ]
    yield "R2", "softmax_probabilities", "softmax over all experts, the k largest, as they are", [
        case("not renormalised (olmoe, qwen2_moe, flex_olmo, jamba)", 201, **sizes(32, 8)),
        case("times a factor (deepseek_v2, topk_method greedy)", 202, **sizes(16, 3), routed_scaling_factor=16.0),
        case("one expert (Switch without a capacity)", 203, **sizes(8, 1)),
    ]
    top = {"scoring_func": "softmax_over_top_k"}
    yield "R3", "top_k_softmax", "the k largest logits, softmax over those", [
        case("gpt_oss: the router's bias is part of the logits", 301, **sizes(32, 4), **top),
        case("granitemoe", 302, **sizes(12, 6), **top),
        case("one expert", 303, **sizes(6, 1), **top),
    ]


def sigmoid_files():
    v3 = {**sizes(32, 4), **SIGMOID, **groups(8, 4, "top_two_sum")}
    plain = {**sizes(16, 4), **SIGMOID}
    yield "R4", "sigmoid_grouped", (
        "sigmoid; with a bias the best groups by the sum of their two best, the k best inside; unbiased over their "
        "sum + 1e-20, times a factor"), [
        case("groups, bias, factor (deepseek_v3)", 401, **v3, **NORM_DEEPSEEK, **biased(41, 32, -0.5, 0.5),
             routed_scaling_factor=2.5),
        case("negative biases: a rejected group is out, not 0", 402, **v3, **NORM_DEEPSEEK,
             **biased(42, 32, -4, -2), routed_scaling_factor=2.5),
        case("groups without a bias", 403, **v3, **NORM_DEEPSEEK),
        case("groups, not renormalised", 404, **v3, **biased(43, 32, -0.5, 0.5), routed_scaling_factor=2.5),
        case("one group of two", 405, **sizes(8, 3), **SIGMOID, **groups(2, 1, "top_two_sum"), **NORM_DEEPSEEK,
             **biased(44, 8, -0.25, 0.25)),
        case("no groups (n_group = topk_group = 1: Kimi-K2, Moonlight, glm4_moe, dots1)", 406, **plain,
             **NORM_DEEPSEEK, **biased(45, 16, -0.5, 0.5), routed_scaling_factor=2.446),
        case("no groups, not renormalised", 407, **plain, **biased(46, 16, -0.5, 0.5), routed_scaling_factor=1.5),
    ]
    yield "R5", "sigmoid_top_k", "sigmoid; with a bias the k best; unbiased over their sum + eps, times a factor", [
        case("nothing added to the sum (minimax_m2)", 501, **plain, **NORM, **biased(51, 16, -0.5, 0.5)),
        case("1e-6 added to the sum (lfm2_moe)", 502, **plain, norm_topk_prob=True, norm_eps=1e-6,
             **biased(52, 16, -0.5, 0.5)),
        case("1e-6 added to the sum, no bias (lfm2_moe, use_expert_bias false)", 503, **plain, norm_topk_prob=True,
             norm_eps=1e-6),
        case("1e-20 added to the sum, a factor (afmoe)", 504, **plain, **NORM_DEEPSEEK,
             **biased(53, 16, -0.5, 0.5), routed_scaling_factor=2.0),
        case("not renormalised, a factor (lfm2_moe, norm_topk_prob false)", 505, **plain,
             **biased(54, 16, -0.5, 0.5), routed_scaling_factor=0.5),
    ]


def later_files():
    yield "R6", "softmax_biased", "softmax; with a bias the k best; unbiased over max(sum, min) or as they are", [
        case("over at least 1e-12 (ernie4_5_moe)", 601, **sizes(16, 4), norm_topk_prob=True, norm_min=1e-12,
             **biased(61, 16, -0.25, 0.25)),
        case("over at least 0.25 (moe_norm_min)", 602, **sizes(16, 4), norm_topk_prob=True, norm_min=0.25,
             **biased(62, 16, -0.5, 0.5)),
        case("as they are, times a factor (longcat_flash)", 603, **sizes(16, 4), **biased(63, 16, -0.25, 0.25),
             routed_scaling_factor=6.0),
    ]
    yield "R7", "softmax_grouped_max", "softmax; the best groups by their best; the k best inside, times a factor", [
        case("group_limited_greedy (deepseek_v2)", 701, **sizes(40, 6), **groups(8, 3, "max"),
             routed_scaling_factor=16.0),
        case("one group of four", 702, **sizes(16, 3), **groups(4, 1, "max")),
    ]
    yield "R8", "softmax_grouped_sum", (
        "softmax; the best groups by the sum of their two best; the k best inside over their sum + 1e-20"), [
        case("mistral4", 801, **sizes(32, 4), **groups(8, 4, "top_two_sum"), **NORM_DEEPSEEK),
        case("times a factor", 802, **sizes(16, 4), **groups(4, 2, "top_two_sum"), **NORM_DEEPSEEK,
             routed_scaling_factor=2.5),
    ]
    mixer = {"scoring_func": "sparse_mixer"}
    yield "R9", "sparse_mixer", (
        "SparseMixer: twice the largest logit, weighted by its softmax among those within 2 * jitter of it"), [
        case("jitter 0.01 (phimoe)", 901, n_random=8, **sizes(16, 2), **mixer, router_jitter_noise=0.01),
        case("jitter 0.2: more experts are close", 902, n_random=8, **sizes(16, 2), **mixer,
             router_jitter_noise=0.2),
    ]
    on_input = {**SIGMOID, "weight_target": "input"}
    yield "R10", "sigmoid_on_input", "the k largest logits; their sigmoids multiply the experts' inputs", [
        case("one expert (llama4)", 1001, **sizes(16, 1), **on_input),
        case("two experts", 1002, **sizes(16, 2), **on_input),
    ]
    yield "R11", "softmax_expert_scaled", "as R1, then times a learned scale of the expert", [
        case("gemma4", 1101, **sizes(16, 4), **NORM, per_expert_scale=Numbers(111).row(16, 0.25, 3)),
    ]
    moge = {"topk_method": "one_per_group"}
    yield "R12", "one_per_group", "MoGE: softmax; the best of each of k equal groups, times a learned scale", [
        case("PanguProMoE", 1201, **sizes(64, 8), **moge, per_expert_scale=Numbers(121).row(64, 0.25, 3)),
        case("groups of two", 1202, **sizes(8, 4), **moge, per_expert_scale=Numbers(122).row(8, 0.25, 3)),
    ]


def kit():
    """{file name: content}."""
    files = {}
    for produce in (softmax_files, sigmoid_files, later_files):
        for number, name, formula, cases in produce():
            content = {"id": number, "name": name, "formula": formula, "cases": cases}
            files[f"r{int(number[1:]):02}_{name}.json"] = text(content)
    return files


def text(content):
    """JSON with a line for each row of numbers."""
    def lines(value, depth):
        space = "  " * depth
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            return "[\n" + ",\n".join(space + "  " + lines(v, depth + 1) for v in value) + f"\n{space}]"
        if isinstance(value, dict):
            rows = (f"{space}  {json.dumps(k)}: {lines(v, depth + 1)}" for k, v in value.items())
            return "{\n" + ",\n".join(rows) + f"\n{space}}}"
        return json.dumps(value)
    return lines(content, 0) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="default: beside this script")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, content in kit().items():
        (out / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
