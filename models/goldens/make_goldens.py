#!/usr/bin/env python3
"""Makes small checkpoints with random weights together with what transformers computes from them.

The reference is Hugging Face transformers in float32, eager, on one CPU thread. For every case: build a tiny model,
give every tensor values large enough to matter, draw prompts whose routing and greedy choices are far from ties,
record the outputs, write the checkpoint as a hub repository would, read it back, and write golden.json and
golden.safetensors beside it. README.md tells what is guaranteed and what the files hold.

The families and cases are tables in cases.py; --cases reads other cases from a JSON list.

Usage: make_goldens.py [--out DIR] [--only NAME,...] [--cases FILE.json] [--seed N] [--list]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from cases import CASES, FAMILIES, INIT, INIT_TIED, SETTINGS, Case, Family, gap

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

GENERATED = 16  # greedy tokens per prompt
SPECIAL_IDS = (0, 1)  # bos and eos: never in a prompt, never generated
MIN_ROUTER_MARGIN = 1e-3  # between the router logits of the last expert chosen and the first one not chosen
MIN_ARGMAX_MARGIN = 2e-3  # between the best logit and the second best
MIN_EFFECT = 1e-3  # on some logit, of every tensor and of every setting in SETTINGS
MIN_EXPERTS_USED = 0.7  # of the experts of each layer
MAX_REPAIRS = 200  # tokens exchanged in one prompt before the weights are drawn again
MAX_DRAWS = 60  # draws of the weights before giving up
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
HF_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Rejected(Exception):
    """These weights do not give a golden with all guarantees; draw others."""


# ---------------------------------------------------------------------------------------------------- the model
def build(case: Case, **changed):
    config = AutoConfig.for_model(FAMILIES[case.family].model_type or case.family, **copy.deepcopy({**case.config, **changed}))
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = SPECIAL_IDS[0]
    return model


def tensors_of(model) -> dict[str, Tensor]:
    """Every parameter once, also when two names share it, and every buffer that is stored."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: parameter.data for name, parameter in model.named_parameters()} | buffers


def is_norm(name: str) -> bool:
    return re.search(r"norm(_?\d+|_f)?\.weight$", name) is not None


@torch.no_grad()
def draw_weights(model, case: Case, generator: torch.Generator) -> None:
    tied = model.config.tie_word_embeddings
    spread = {**INIT, **(INIT_TIED if tied else {}), **FAMILIES[case.family].init, **case.init}
    for name, tensor in tensors_of(model).items():
        noise = torch.randn(tensor.shape, generator=generator)
        row = 1 / math.sqrt(tensor.shape[-1])
        if is_norm(name):
            value = 1 + noise * spread["norm"]
            value = value * spread["final_norm"] if name in ("model.norm.weight", "transformer.norm_f.weight") else value
        elif name.endswith(".bias"):
            value = noise * spread["bias"]
        elif name.endswith(("scale", "scalar")):
            value = 1 + noise * spread["norm"]
        elif "embed_tokens" in name or "wte" in name:
            value = noise * (spread["embed_gain"] * row if tied else spread["embed"])
        elif "lm_head" in name:
            value = noise * spread["head_gain"] * row
        elif re.search(r"\.(gate|router)(\.(wg|proj|layer))?\.weight$", name):
            value = noise * spread["router_gain"] * row
        else:
            value = noise * spread["gain"] * row
        tensor.copy_(value)
    model.get_output_embeddings().weight.data[list(SPECIAL_IDS)] *= 0.15
    for tensor in tensors_of(model).values():
        tensor.copy_(tensor.to(DTYPES[case.dtype]).float())


@dataclass
class Trace:
    """What one run of a whole sequence gives."""

    logits: Tensor  # [positions, vocab]
    hidden: dict[int, Tensor]  # 0: input of layer 0; j: output of layer j-1; [positions, hidden]
    routing: dict[int, tuple[Tensor, Tensor, Tensor]]  # layer -> (logits, weights, experts), experts ascending
    gaps: list[Tensor]  # per layer with a router, how clear its choices are; [positions]


@torch.no_grad()
def trace(model, family: Family, ids: list[int]) -> Trace:
    hidden: dict[int, Tensor] = {}
    routing: dict[int, tuple] = {}
    gaps = []
    hooks = []

    def keep_input(_module, args, kwargs):
        hidden[0] = (args[0] if args else kwargs["hidden_states"])[0].clone()

    def keep_output(index):
        def hook(_module, _args, output):
            hidden[index + 1] = (output[0] if isinstance(output, tuple) else output)[0].clone()
        return hook

    def keep_routing(index, layer):
        def hook(module, _args, output):
            logits, weights, experts = (o.reshape(len(ids), -1) for o in family.routing(layer, module, output))
            gaps.append(family.gap(layer, logits, experts.shape[-1]))
            order = experts.argsort(-1)
            routing[index] = (logits, weights.gather(1, order), experts.gather(1, order).int())
        return hook

    for index, layer in enumerate(model.get_submodule(family.layers)):
        if index == 0:
            hooks.append(layer.register_forward_pre_hook(keep_input, with_kwargs=True))
        hooks.append(layer.register_forward_hook(keep_output(index)))
        for module in layer.modules():
            if type(module).__name__ == family.router:
                hooks.append(module.register_forward_hook(keep_routing(index, layer)))
    try:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(logits, hidden, routing, gaps)


@torch.no_grad()
def greedy(model, ids: list[int]) -> tuple[list[int], Tensor]:
    """Cached greedy decoding: the tokens, and the logits [GENERATED, vocab] that chose them."""
    tokens, rows = [], []
    output = model(input_ids=torch.tensor([ids]), use_cache=True)
    while True:
        rows.append(output.logits[0, -1])
        tokens.append(int(rows[-1].argmax()))
        if len(tokens) == GENERATED:
            return tokens, torch.stack(rows)
        output = model(input_ids=torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)


# ---------------------------------------------------------------------------------------------------- prompts
def router_gaps(run: Trace) -> Tensor:
    """Per position, the smallest routing margin over the layers."""
    return torch.stack(run.gaps).amin(0)


def find_prompt(model, family: Family, length: int, generator: torch.Generator) -> dict:
    """A prompt whose routing and greedy choices, continuation included, are all clear.

    A later token never changes an earlier position, so exchanging the first offending token mends a prompt from
    left to right; a bad continuation exchanges the last prompt token.
    """
    vocab = model.config.vocab_size

    def token() -> int:
        return int(torch.randint(len(SPECIAL_IDS), vocab, (1,), generator=generator))

    ids = [token() for _ in range(length)]
    for _ in range(MAX_REPAIRS):
        run = trace(model, family, ids)
        margins = router_gaps(run)
        bad = (margins < MIN_ROUTER_MARGIN).nonzero()
        if len(bad):
            ids[int(bad[0])] = token()
            continue
        tokens, gen_logits = greedy(model, ids)
        if set(tokens) & set(SPECIAL_IDS) or len(set(tokens)) < 7:
            ids[-1] = token()
            continue
        long_run = trace(model, family, ids + tokens[:-1])
        router_margin = float(router_gaps(long_run).min())
        argmax_margin = float(gap(long_run.logits[length - 1:], 1).min())
        if router_margin < MIN_ROUTER_MARGIN or argmax_margin < MIN_ARGMAX_MARGIN:
            ids[-1] = token()
            continue
        check_prompt(model, ids, tokens, gen_logits, run, long_run)
        cached = float((long_run.logits[length - 1:] - gen_logits).abs().max())
        return {"ids": ids, "tokens": tokens, "gen_logits": gen_logits, "run": run, "router_margin": router_margin,
                "argmax_margin": argmax_margin, "cached": cached}
    raise Rejected(f"no clear prompt of {length} tokens")


def check_prompt(model, ids, tokens, gen_logits, run: Trace, long_run: Trace) -> None:
    uncached = long_run.logits[len(ids) - 1:]
    if uncached.argmax(-1).tolist() != tokens or float((uncached - gen_logits).abs().max()) > 1e-4:
        raise Rejected("cached and uncached decoding differ")
    if float((run.logits - long_run.logits[: len(ids)]).abs().max()) > 1e-4:
        raise Rejected("the prompt alone and the prompt with its continuation differ")
    generated = model.generate(
        torch.tensor([ids]), max_new_tokens=GENERATED, do_sample=False, eos_token_id=None,
        pad_token_id=SPECIAL_IDS[0], attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    if generated[0, len(ids):].tolist() != tokens:
        raise Rejected("`generate` and the decoding loop differ")


# ---------------------------------------------------------------------------------------------------- checks
@torch.no_grad()
def tensor_effects(model, prompt: dict) -> dict[str, float]:
    """Largest change of a logit when a tensor is zeroed (a norm: set to one constant)."""
    effects = {}
    for name, tensor in tensors_of(model).items():
        kept = tensor.clone()
        tensor.fill_(0.37 if is_norm(name) else 0.0)
        logits = model(input_ids=torch.tensor([prompt["ids"]]), use_cache=False).logits[0]
        tensor.copy_(kept)
        effects[name] = float((logits - prompt["run"].logits).abs().max())
    return effects


@torch.no_grad()
def setting_effects(model, case: Case, prompt: dict) -> dict[str, float]:
    """Largest change of a logit when one setting of the case has another value."""
    effects = {}
    for name in sorted(SETTINGS.keys() & case.config.keys()):
        value = case.config[name]
        if name in ("sliding_window", "max_window_layers") and not case.config.get("use_sliding_window", True):
            continue
        changed = build(case, **{name: SETTINGS[name](value)})
        changed.load_state_dict(model.state_dict())
        logits = changed(input_ids=torch.tensor([prompt["ids"]]), use_cache=False).logits[0]
        effects[name] = float((logits - prompt["run"].logits).abs().max())
    return effects


def noise(model, family: Family, prompts: list[dict]) -> dict[str, dict[str, float]]:
    """How far two other correct computations are from the golden; they must choose the same experts."""
    double = copy.deepcopy(model).double()
    batched = copy.deepcopy(model)
    batched.set_attn_implementation("sdpa")
    if hasattr(batched, "set_experts_implementation"):
        batched.set_experts_implementation("batched_mm")
    result = {}
    for label, other in (("float64", double), ("sdpa+batched_mm", batched)):
        logits = hidden = 0.0
        for prompt in prompts:
            run, other_run = prompt["run"], trace(other, family, prompt["ids"])
            logits = max(logits, float((other_run.logits - run.logits).abs().max()))
            hidden = max(hidden, *(float((other_run.hidden[j] - h).abs().max()) for j, h in run.hidden.items()))
            for layer, (_, _, experts) in run.routing.items():
                if not torch.equal(other_run.routing[layer][2], experts):
                    raise Rejected(f"another computation ({label}) routes differently")
        result[label] = {"logits": logits, "hidden": hidden}
    return result


def experts_used(prompts: list[dict]) -> dict[int, float]:
    """Per layer, the share of its experts that some prompt token uses."""
    shares = {}
    for layer, (logits, _, _) in prompts[0]["run"].routing.items():
        chosen = torch.cat([p["run"].routing[layer][2].flatten() for p in prompts])
        shares[layer] = len(chosen.unique()) / logits.shape[-1]
    return shares


def weakest(effects: dict[str, float]) -> list:
    name = min(effects, key=effects.get)
    return [name, effects[name]]


def attempt(case: Case, seed: int) -> dict:
    family = FAMILIES[case.family]
    generator = torch.Generator().manual_seed(seed)
    model = build(case)
    draw_weights(model, case, generator)
    prompts = [find_prompt(model, family, length, generator) for length in case.lengths]
    used = experts_used(prompts)
    if min(used.values()) < MIN_EXPERTS_USED:
        raise Rejected("experts without a token")
    peak = max(float(p["run"].logits.abs().max()) for p in prompts)
    if not peak < 100:
        raise Rejected("logits out of scale")
    result = {"model": model, "prompts": prompts, "seed": seed, "used": used, "peak": peak}
    result["tensors"] = tensor_effects(model, prompts[-1])
    result["settings"] = setting_effects(model, case, prompts[-1])
    name, effect = weakest({**result["tensors"], **result["settings"]})
    if effect < MIN_EFFECT:
        raise Rejected(f"`{name}` has no effect")
    result["noise"] = noise(model, family, prompts)
    return result


# ---------------------------------------------------------------------------------------------------- writing
def hub_config(config: dict, case: Case) -> dict:
    """The configuration as repositories on the hub spell it."""
    family = FAMILIES[case.family]
    config = {family.hub_names.get(k, k): v for k, v in config.items() if k not in family.v5_only}
    if not family.nested_rope:
        parameters = dict(config.pop("rope_parameters"))
        config["rope_theta"] = parameters.pop("rope_theta")
        kind = parameters.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {"type": kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.0"
    return config


def write_checkpoint(directory: Path, case: Case, model) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tensors = load_file(Path(scratch, "model.safetensors"))
        config = json.loads(Path(scratch, "config.json").read_text())
    config["dtype"] = HF_DTYPES[case.dtype]
    config = hub_config(config, case) if case.style == "hub" else config
    config.update(case.inert)
    write_json(directory / "config.json", dict(sorted(config.items())))
    tensors = {k: v.to(DTYPES[case.dtype]).contiguous() for k, v in sorted(tensors.items())}
    check_names(case, tensors)
    if case.shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    # Dealt out in turn, so that the tensors of one layer, even of one expert, lie in different files.
    files = {k: f"model-{i % case.shards + 1:05d}-of-{case.shards:05d}.safetensors" for i, k in enumerate(tensors)}
    for file in set(files.values()):
        save_file({k: v for k, v in tensors.items() if files[k] == file}, directory / file, metadata={"format": "pt"})
    total = sum(v.numel() * v.element_size() for v in tensors.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def check_names(case: Case, tensors: dict[str, Tensor]) -> None:
    for pattern in FAMILIES[case.family].on_disk:
        if not any(re.search(pattern, name) for name in tensors):
            raise RuntimeError(f"{case.name}: no tensor on disk is named like `{pattern}`")
    fused = [name for name in tensors if re.search(r"experts\.(gate_up|down)_proj$", name)]
    if fused and not FAMILIES[case.family].fused:
        raise RuntimeError(f"{case.name}: fused experts on disk: `{fused[0]}`")


def write_json(path: Path, value) -> None:
    """Indented, but a list of numbers on one line."""
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    path.write_text(text + "\n")


def reload_difference(directory: Path, case: Case, prompts: list[dict]) -> float:
    """Largest difference between the golden and transformers reading the written directory."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a mapped file may be unaligned, which changes the last bits
    family = FAMILIES[case.family]
    return max(float((trace(model, family, p["ids"]).logits - p["run"].logits).abs().max()) for p in prompts)


TENSORS = (
    "p{i}.logits [n,V] all prompt positions; p{i}.h0 [n,H] input of layer 0 (after any embedding multiplier); "
    "p{i}.h{j} [n,H] residual stream after decoder layer j-1 (before the final norm); p{i}.router{l}.logits [n,E] raw "
    "output of the router projection; .experts [n,k] int32 ascending; .weights [n,k] f32 in that order, exactly what "
    "multiplies the expert outputs; p{i}.gen_logits [16,V] logits that produced each of the 16 greedy tokens, from "
    "cached decoding"
)


def golden_tensors(prompts: list[dict]) -> dict[str, Tensor]:
    tensors = {}
    for i, prompt in enumerate(prompts):
        run = prompt["run"]
        tensors[f"p{i}.logits"] = run.logits
        tensors[f"p{i}.gen_logits"] = prompt["gen_logits"]
        tensors.update({f"p{i}.h{j}": hidden for j, hidden in run.hidden.items()})
        for layer, (logits, weights, experts) in run.routing.items():
            tensors[f"p{i}.router{layer}.logits"] = logits
            tensors[f"p{i}.router{layer}.weights"] = weights
            tensors[f"p{i}.router{layer}.experts"] = experts
    return {k: v.contiguous() for k, v in tensors.items()}


def layer_kinds(run: Trace) -> list[dict]:
    kinds = []
    for index in range(len(run.hidden) - 1):
        kind = {"index": index, "moe": index in run.routing}
        if kind["moe"]:
            logits, _, experts = run.routing[index]
            kind |= {"n_experts": logits.shape[-1], "top_k": experts.shape[-1]}
        kinds.append(kind)
    return kinds


def golden_json(case: Case, result: dict, attempts: int, reload: float) -> dict:
    prompts, distances = result["prompts"], result["noise"].values()
    cached = max(p["cached"] for p in prompts)
    logits = max(cached, *(d["logits"] for d in distances))
    hidden = max(d["hidden"] for d in distances)
    return {
        "format": 1, "name": case.name, "family": case.family, "seed": result["seed"], "attempts": attempts,
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager, CPU",
        "prompts": [{"input_ids": p["ids"], "continuation": p["tokens"]} for p in prompts],
        "layers": layer_kinds(prompts[0]["run"]),
        "stored_dtype": case.dtype, "notes": [],
        "min_router_margin": min(p["router_margin"] for p in prompts),
        "min_argmax_margin": min(p["argmax_margin"] for p in prompts),
        "max_cached_vs_uncached_logit_diff": cached, "reload_max_logit_diff": reload,
        "experts_used_fraction": result["used"], "fraction_of_selections_changed_by_bias": None,
        "weakest_tensor_effect": weakest(result["tensors"]), "weakest_setting_effect": weakest(result["settings"]),
        "distinct_tokens_per_continuation": [len(set(p["tokens"])) for p in prompts],
        "noise_of_other_implementations": result["noise"], "logit_absmax": result["peak"],
        "suggested_tolerance": {"logits_abs": round(max(1e-4, 12 * logits), 6),
                                "hidden_abs": round(max(1e-4, 12 * hidden), 6), "router_weights_abs": 1e-4},
        "tensors": TENSORS,
    }


def make(case: Case, out: Path, seed: int) -> None:
    reasons = []
    for draw in range(MAX_DRAWS):
        try:
            result = attempt(case, seed + draw)
            break
        except Rejected as reason:
            reasons.append(str(reason))
    else:
        raise RuntimeError(f"{case.name}: no draw of the weights passed: {sorted(set(reasons))}")
    directory = out / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_checkpoint(directory, case, result["model"])
    reload = reload_difference(directory, case, result["prompts"])
    if reload != 0.0:
        raise RuntimeError(f"{case.name}: reading the checkpoint back changes logits by {reload:.1e}")
    save_file(golden_tensors(result["prompts"]), directory / "golden.safetensors")
    golden = golden_json(case, result, draw + 1, reload)
    write_json(directory / "golden.json", golden)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{case.name:32} draws {draw + 1:2}  router {golden['min_router_margin']:.1e}  "
          f"argmax {golden['min_argmax_margin']:.1e}  tensor {golden['weakest_tensor_effect'][1]:.1e}  "
          f"setting {golden['weakest_setting_effect'][1]:.1e}@{golden['weakest_setting_effect'][0]}  "
          f"tolerance {golden['suggested_tolerance']['logits_abs']:.1e}  {size // 1024} KiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="parent of the golden directories")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--cases", type=Path, help="a JSON list of cases instead of the built-in ones")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other weights and prompts")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    args = parser.parse_args()
    cases = [Case(**entry) for entry in json.loads(args.cases.read_text())] if args.cases else CASES
    failed = []
    for index, case in enumerate(cases):
        if args.only and case.name not in args.only.split(","):
            continue
        if args.list:
            print(case.name)
            continue
        try:
            make(case, args.out, args.seed * 1_000_000 + index * 1_000)
        except RuntimeError as error:
            failed.append(case.name)
            print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
