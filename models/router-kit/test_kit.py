"""Checks the router kit: that its files are what the script makes, and what transformers computes."""

import importlib
import importlib.util
import json
import math
import struct
import unittest
from pathlib import Path
from types import SimpleNamespace

import make_kit

HERE = Path(__file__).parent
LISTS = {"notes", "tied", "logits", "experts", "weights"}


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def files():
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("r*.json"))]


def cases():
    return [(file["id"], case) for file in files() for case in file["cases"]]


class Files(unittest.TestCase):
    def test_the_files_are_what_the_script_makes(self):
        made = make_kit.kit()
        self.assertEqual(sorted(made), sorted(path.name for path in HERE.glob("*.json")))
        for name, content in made.items():
            stored, new = json.loads((HERE / name).read_text(encoding="utf-8")), json.loads(content)
            for ours, theirs in zip(stored["cases"], new["cases"]):
                # The last digits of an exponential are the platform's.
                for got, expected in zip(sum(ours.pop("weights"), []), sum(theirs.pop("weights"), [])):
                    self.assertTrue(math.isclose(got, expected, rel_tol=1e-10), name)
            self.assertEqual(stored, new, name)

    def test_there_is_a_file_for_each_formula(self):
        self.assertEqual([file["id"] for file in files()], [f"R{i}" for i in range(1, 13)])

    def test_every_case_has_the_documented_form(self):
        for number, case in cases():
            config = case["config"]
            n, k = config["num_experts"], config["num_experts_per_tok"]
            self.assertEqual(set(case) - LISTS, {"name", "config"}, number)
            self.assertEqual(list(config), list(make_kit.DEFAULTS), number)
            self.assertEqual(len({len(case[name]) for name in LISTS}), 1, number)
            for row, experts, weights in zip(case["logits"], case["experts"], case["weights"]):
                self.assertEqual((len(row), len(experts), len(weights)), (n, k, k))
                self.assertEqual(experts, sorted(set(experts)))
                self.assertTrue(0 <= experts[0] and experts[-1] < n)
                self.assertTrue(all(math.isfinite(weight) for weight in weights))

    def test_float32_holds_the_inputs_exactly(self):
        for _, case in cases():
            config = case["config"]
            rows = [*case["logits"], config["e_score_correction_bias"] or [], config["per_expert_scale"] or []]
            self.assertTrue(all(float32(value) == value for row in rows for value in row), case["name"])

    def test_every_formula_breaks_a_tie_but_rarely(self):
        tied = {}
        for number, case in cases():
            tied.setdefault(number, []).extend(case["tied"])
        for number, rows in tied.items():
            self.assertTrue(0 < sum(rows) < len(rows) / 2, number)


def same_logits(router):
    """Makes the projection the identity."""
    weight = getattr(router, "weight", None)
    if weight is None:
        inner = next(getattr(router, name) for name in ("gate", "wg", "proj", "classifier") if hasattr(router, name))
        weight = inner.weight
    weight.data.copy_(importlib.import_module("torch").eye(weight.shape[0]))


def names_of(config):
    """What the classes call what the kit says."""
    n, k = config["num_experts"], config["num_experts_per_tok"]
    limited = config["topk_method"] == "group_limited"
    return SimpleNamespace(
        **{**config, "topk_method": "group_limited_greedy" if limited else "greedy"},
        hidden_size=n,
        num_local_experts=n,
        n_routed_experts=n,
        zero_expert_num=0,
        moe_topk=k,
        top_k_experts=k,
        moe_norm_min=config["norm_min"],
        route_scale=config["routed_scaling_factor"],
        use_expert_bias=config["e_score_correction_bias"] is not None,
        input_jitter_noise=0.0,
        rms_norm_eps=1e-6,
    )


def one_group(config):
    """Classes that know groups only say so when there are none."""
    config.n_group, config.topk_group = config.n_group or 1, config.topk_group or 1
    return config


# For each formula: part of a case's name, the model and the router class that computes it.
REFERENCES = [
    ("R1", "mixtral", "mixtral.MixtralTopKRouter"),
    ("R1", "qwen3_moe", "qwen3_moe.Qwen3MoeTopKRouter"),
    ("R1", "qwen3_moe", "qwen3_next.Qwen3NextTopKRouter"),
    ("R1", "hunyuan", "hunyuan_v1_moe.HunYuanMoEV1Gate"),
    ("R1", "", "qwen3_5_moe.Qwen3_5MoeTopKRouter"),
    ("R2", "olmoe", "olmoe.OlmoeTopKRouter"),
    ("R2", "qwen2_moe", "qwen2_moe.Qwen2MoeTopKRouter"),
    ("R2", "deepseek_v2", "deepseek_v2.DeepseekV2TopkRouter"),
    ("R3", "", "gpt_oss.GptOssTopKRouter"),
    ("R3", "", "granitemoe.GraniteMoeTopKRouter"),
    ("R4", "", "deepseek_v3.DeepseekV3TopkRouter"),
    ("R4", "", "glm4_moe.Glm4MoeTopkRouter"),
    ("R4", "", "dots1.Dots1TopkRouter"),
    ("R5", "minimax_m2", "minimax_m2.MiniMaxM2TopKRouter"),
    ("R5", "lfm2_moe", "lfm2_moe.Lfm2MoeTopKRouter"),
    ("R5", "afmoe", "afmoe.AfmoeTokenChoiceRouter"),
    ("R6", "over at least", "ernie4_5_moe.Ernie4_5_MoeTopKRouter"),
    ("R6", "longcat_flash", "longcat_flash.LongcatFlashTopkRouter"),
    ("R7", "", "deepseek_v2.DeepseekV2TopkRouter"),
    ("R8", "", "mistral4.Mistral4TopkRouter"),
    ("R9", "", "phimoe.PhimoeTopKRouter"),
    ("R10", "", "llama4.Llama4Router"),
    ("R11", "", "gemma4.Gemma4TextRouter"),
]


@unittest.skipUnless(importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"), "no transformers")
class Transformers(unittest.TestCase):
    def test_the_routers_of_transformers_agree(self):
        import torch

        for number, part, reference in REFERENCES:
            model, name = reference.split(".")
            module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
            checked = [self.agrees(torch, getattr(module, name), case) for case_of, case in cases()
                       if case_of == number and part in case["name"]]
            self.assertTrue(sum(checked) >= 6, f"{reference}: {checked}")

    def agrees(self, torch, router_class, case):
        """Compares the rows without ties and says how many there are."""
        config = one_group(names_of(case["config"]))
        layer = {"layer_idx": 0} if router_class.__name__ == "HunYuanMoEV1Gate" else {}
        router = router_class(config, **layer).eval().float()
        same_logits(router)
        bias = torch.tensor(config.e_score_correction_bias or [0.0] * config.num_experts)
        if hasattr(router, "e_score_correction_bias"):
            router.e_score_correction_bias.copy_(bias)
        if hasattr(router, "moe_statics"):
            router.moe_statics.e_score_correction_bias.data.copy_(bias[None])
        if hasattr(router, "bias") and router.bias is not None:
            router.bias.data.zero_()
        if hasattr(router, "per_expert_scale"):
            router.per_expert_scale.data.copy_(torch.tensor(config.per_expert_scale))
            router.norm, router.scalar_root_size = torch.nn.Identity(), 1.0
        rows = [i for i, tied in enumerate(case["tied"]) if not tied]
        logits = torch.tensor([case["logits"][i] for i in rows])
        with torch.no_grad():
            experts, weights = answer(torch, router, logits, bias)
        for at, i in enumerate(rows):
            order = sorted(range(len(experts[at])), key=lambda j: experts[at][j])
            self.assertEqual([experts[at][j] for j in order], case["experts"][i], (router_class, case["name"], i))
            for j, expected in zip(order, case["weights"][i]):
                context = (router_class, case["name"], i, weights[at][j], expected)
                self.assertTrue(abs(weights[at][j] - expected) <= 1e-6 * abs(expected) + 1e-12, context)
        return len(rows)


def answer(torch, router, logits, bias):
    """Experts and weights, `[tokens, k]` each, in the router's own order."""
    name = type(router).__name__
    if name == "AfmoeTokenChoiceRouter":
        _, weights, experts = router(logits[None], bias)
    elif name in ("MiniMaxM2TopKRouter", "Lfm2MoeTopKRouter"):
        _, weights, experts = router(logits, bias)
    elif name == "Llama4Router":
        scores, _ = router(logits)
        experts = torch.topk(logits, router.top_k, dim=1).indices
        weights = scores.gather(1, experts)
    else:
        _, weights, experts = router(logits)
    return experts.tolist(), weights.tolist()


if __name__ == "__main__":
    unittest.main()
