#!/usr/bin/env python3
"""Write goldens as GGUF files in f32 with the package `gguf`: `make.py GOLDENS OUT [NAME ...]`.

Independent of moebius: names come from the package's own map of tensors, metadata from its writer's methods, and what
llama.cpp's converter does to values (rows of queries and keys in pairs, stacked experts, split up-projections of latent
attention, heads in another order) is done here again. There is no vocabulary to speak of: the goldens are ids.

Of the models in `KEPT_APART` a second file, `NAME.delta`, holds only what the checkpoint does not: see `delta.py`.
"""
import json
import re
import sys
from pathlib import Path

import gguf
import numpy as np

from checkpoint import read_tensors
from delta import delta
from metadata import add_metadata, plain
from tensors import of_expert, translated

ARCHITECTURES = {
    "afmoe": "afmoe", "bailing_moe_v1": "bailingmoe", "bailing_moe_v2": "bailingmoe2", "dbrx": "dbrx",
    "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "dots1": "dots1", "ernie4_5_moe": "ernie4_5-moe",
    "gemma4": "gemma4", "glm4_moe": "glm4moe", "glm4_moe_lite": "deepseek2", "gpt_oss": "gpt-oss",
    "granitemoe": "granitemoe", "granitemoehybrid": "granitehybrid", "granitemoeshared": "granitemoe",
    "hunyuan_v1_moe": "hunyuan-moe", "jamba": "jamba", "lfm2_moe": "lfm2moe", "llama4": "llama4",
    "minimax_m2": "minimax-m2", "mixtral": "llama", "mixtral.experts": "llama", "nemotron_h": "nemotron_h_moe",
    "olmoe": "olmoe", "phimoe": "phimoe", "qwen2_moe": "qwen2moe", "qwen3_5_moe": "qwen35moe",
    "qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next",
}
"""Files and their architectures. What follows a full stop tells two files of one golden apart."""
EDITS = {
    "afmoe": {"global_attn_every_n_layers": 4, "layer_types": 3 * ["sliding_attention"] + ["full_attention"]},
}
"""What a golden says and the architecture cannot: which layers know no positions is no key."""
KEPT_APART = {
    "afmoe", "bailing_moe_v1", "dbrx", "gemma4", "glm4_moe_lite", "granitemoehybrid", "jamba", "llama4",
    "mixtral.experts", "nemotron_h", "phimoe", "qwen3_5_moe", "qwen3_next",
}


def convert(golden, name, out):
    c = plain({**json.loads((golden / "config.json").read_text()), **EDITS.get(name, {})})
    arch = ARCHITECTURES[name]
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(number, c["num_hidden_layers"])
    w = gguf.GGUFWriter(out / f"{name}.gguf", arch)
    for theirs, values in add_metadata(w, c).items():
        w.add_tensor(theirs, values)
    stacks = {}
    for ours, a in read_tensors(golden):
        if expert := of_expert(ours):
            layer, projection, number = expert
            if name.endswith(".experts"):
                # As files had it before experts were stacked.
                w.add_tensor(f"blk.{layer}.ffn_{projection}.{number}.weight", a)
            else:
                stacks.setdefault(f"blk.{layer}.ffn_{projection}_exps.weight", {})[number] = a
            continue
        for theirs, values in translated(c, arch, names, ours, a):
            assert theirs, ours
            w.add_tensor(theirs, np.ascontiguousarray(values, np.float32))
    for stack, experts in stacks.items():
        w.add_tensor(stack, np.stack([experts[i] for i in range(len(experts))]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    goldens, out = map(Path, sys.argv[1:3])
    for name in sys.argv[3:] or ARCHITECTURES:
        golden = goldens / re.sub(r"\..*", "", name)
        convert(golden, name, out)
        if name in KEPT_APART:
            file = out / f"{name}.gguf"
            (out / f"{name}.delta").write_bytes(delta(golden, file))
            file.unlink()
