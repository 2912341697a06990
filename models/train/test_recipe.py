"""The recipe on a model of a few thousand weights: batches, loss, experts, resuming, export, twins.

Where torch is missing, the tests that need it are skipped.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

try:
    import numpy as np
    import torch
    import torch.nn.functional as F

    import data
    import export
    import measure
    from model import Experts, GroupedProduct, Model, Shape, VocabularyLoss
    from train import Run, train
except ModuleNotFoundError as missing:
    raise unittest.SkipTest(f"`{missing.name}` is not installed, see models/train/requirements.txt") from missing

HERE = Path(__file__).resolve().parent
TINY = Shape(
    vocab=300, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, experts=4, top_k=2, ffn=16, context=32
)
STEPS = 12
KILLED_AT = 5
FOLLOWED = ("step", "tokens", "loss", "balance", "rate", "validation")
"""What a log says that is the same for every run, however fast."""

# A run in a process of its own, so that it can be killed; it saves after every step.
CHILD = """
import sys
import test_recipe
test_recipe.run(*sys.argv[1:])
"""


def run(tokens: str, out: str) -> None:
    torch.set_num_threads(1)
    data.SOURCES = tiny_sources()
    sizes = dict(tokens=STEPS * 128, tokens_per_step=128, sequences=2, length=16, phases=(7 * 128,))
    train(TINY, Run(**sizes, log_every=1, validate_every=4, save_minutes=0.0), Path(tokens), Path(out))


def tiny_sources() -> dict:
    return {
        "arithmetic": data.Source("arithmetic", (0.6, 0.8), 0.02, 0.02),
        "mukashi": data.Source("japanese", (0.4, 0.2), 0.03, 0.03),
    }


class OnTinyCorpus(unittest.TestCase):
    """Has the token files of two small generated sources in `self.tokens`."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.tokens = cls.folder / "data"
        sources = mock.patch.object(data, "SOURCES", tiny_sources())
        sources.start()
        cls.addClassCleanup(sources.stop)
        data.prepare(cls.tokens, cls.folder, TINY.vocab)


class Batches(OnTinyCorpus):
    def test_a_batch_depends_on_seed_and_step_alone(self):
        one, other = data.Windows(self.tokens, 1), data.Windows(self.tokens, 1)
        in_order = [one.batch(step, 8, 16)[0] for step in range(6)]
        for step in reversed(range(6)):
            np.testing.assert_array_equal(other.batch(step, 8, 16)[0], in_order[step])
        self.assertFalse(np.array_equal(in_order[0], in_order[1]))
        self.assertFalse(np.array_equal(data.Windows(self.tokens, 2).batch(0, 8, 16)[0], in_order[0]))

    def test_windows_are_text_of_their_source(self):
        rows, _ = data.Windows(self.tokens, 1).batch(0, 32, 16)
        stream = {n: np.fromfile(self.tokens / f"{n}.train.tokens", np.uint16).tobytes() for n in data.SOURCES}
        for row in rows:
            self.assertTrue(any(row.astype(np.uint16).tobytes() in text for text in stream.values()))

    def test_answers_of_sums_count_more_than_questions_after_the_first_phase(self):
        windows = data.Windows(self.tokens, 1)
        self.assertEqual(set(windows.batch(0, 32, 16)[1].flat), {1.0})
        late = windows.batch(0, 32, 16, phase=1)[1]
        self.assertEqual(set(late.flat), {1.0, np.float32(data.QUESTION), np.float32(data.ANSWER)})
        tokenizer = data.Tokenizer.from_file(str(self.tokens / "tokenizer.json"))
        ids = tokenizer.encode("12+30=42\n8 > 6\nWhat is 3+4? 7\n").ids
        counted = [i for i, e in zip(ids, data.emphasis(np.array(ids), tokenizer)) if e == np.float32(data.ANSWER)]
        self.assertEqual(tokenizer.decode(counted), "42\n 7\n")

    def test_line_ends_may_stand_apart_without_another_text(self):
        tokenizer = data.Tokenizer.from_file(str(HERE.parent / "moebius-tiny" / "tokenizer.json"))
        apart = data.line_ends_apart(tokenizer)
        self.assertIn(tokenizer.encode("):\n").ids[-1], apart)
        for token, parts in apart.items():
            self.assertEqual(tokenizer.decode(parts), tokenizer.decode([token]))
            self.assertEqual(parts[-1:], tokenizer.encode("\n").ids)

    def test_tokens_that_stand_apart_are_replaced_in_place(self):
        windows = data.Windows(self.tokens, 1)
        token = windows.batch(3, 16, 24)[0][0][0]
        windows.apart = {int(token): [1, 2]}
        with mock.patch.object(data, "LINE_ENDS_APART", (0, 1)):
            whole, cut = (windows.batch(3, 16, 24, phase)[0] for phase in (0, 1))
        self.assertIn(token, whole)
        self.assertNotIn(token, cut)
        self.assertEqual(cut.shape, whole.shape)

    def test_no_held_out_document_is_trained_on(self):
        for name in data.SOURCES:
            training, held_out = data.documents(name, self.folder)
            self.assertTrue(held_out)
            self.assertFalse(set(training) & set(held_out))

    def test_the_tokenizer_gives_back_every_text(self):
        tokenizer = data.Tokenizer.from_file(str(self.tokens / "tokenizer.json"))
        for text in ("12 + 30 = 42\n", "def f(x):\n    return x\n", "むかしむかし、山の中に", "  é\t\u2014 ok"):
            self.assertEqual(tokenizer.decode(tokenizer.encode(text).ids), text)


class Mathematics(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_vocabulary_loss_is_cross_entropy_with_its_gradients(self):
        rows = 2 * VocabularyLoss.ROWS + 7
        targets = torch.randint(0, 40, (rows,))
        hidden, weight, emphasis = torch.randn(rows, 16), torch.randn(40, 16), torch.rand(rows)
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = VocabularyLoss.apply(h, w, targets, emphasis)
        (3 * loss).backward()
        again_h, again_w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        losses = F.cross_entropy(again_h @ again_w.t(), targets, reduction="none")
        (3 * (losses * emphasis).mean()).backward()
        for ours, expected in ((loss, losses.mean()), (h.grad, again_h.grad), (w.grad, again_w.grad)):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)

    def test_grouped_product_multiplies_each_row_with_its_matrix(self):
        bounds = [0, 3, 3, 8, 9]
        x = torch.randn(9, 5, dtype=torch.double, requires_grad=True)
        w = torch.randn(4, 6, 5, dtype=torch.double, requires_grad=True)
        of_row = torch.repeat_interleave(torch.arange(4), torch.tensor(bounds).diff())
        torch.testing.assert_close(GroupedProduct.apply(x, w, bounds), torch.einsum("nh,nfh->nf", x, w[of_row]))
        self.assertTrue(torch.autograd.gradcheck(lambda x, w: GroupedProduct.apply(x, w, bounds), (x, w)))

    def test_experts_sum_what_each_chosen_one_computes(self):
        experts = Experts(TINY)
        torch.nn.init.normal_(experts.gate_up)
        torch.nn.init.normal_(experts.down)
        x, chosen = torch.randn(7, TINY.hidden), torch.tensor([[0, 3]] * 4 + [[3, 1]] * 3)
        weights = torch.rand(7, 2)
        expected = torch.zeros_like(x)
        for n, (es, ws) in enumerate(zip(chosen, weights)):
            for e, w in zip(es, ws):
                gate, up = (experts.gate_up[e] @ x[n]).chunk(2)
                expected[n] += w * (experts.down[e] @ (F.silu(gate) * up))
        torch.testing.assert_close(experts(x, chosen, weights), expected, rtol=1e-4, atol=1e-4)

    def test_specialisation_is_what_a_hand_calculation_gives(self):
        counts = np.array([[3, 1, 0], [1, 3, 0], [1, 3, 0], [1, 3, 0], [1, 3, 0]])
        found = measure.specialisation(counts)
        p = np.array([0.75 + 4 * 0.25, 0.25 + 4 * 0.75]) / 5
        one, four = np.array([0.75, 0.25]), np.array([0.25, 0.75])
        by_hand = ((one * np.log(one / p)).sum() + 4 * (four * np.log(four / p)).sum()) / 5
        self.assertAlmostEqual(found["mutual_information_nats"], by_hand, places=4)
        self.assertEqual(found["unused"], [2])
        first = dict(expert=0, domain=measure.DOMAINS[0], lift=round(0.75 / p[0], 3))
        self.assertEqual(found["favourites"][0], first)


class Resuming(OnTinyCorpus):
    def start(self, out: Path) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, str(self.tokens), str(out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def outcome(self, out: Path) -> tuple[list[dict], dict]:
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        return [{k: v for k, v in entry.items() if k in FOLLOWED} for entry in log], state

    def test_a_run_that_is_killed_and_started_again_ends_as_an_unbroken_one(self):
        unbroken, broken = self.folder / "unbroken", self.folder / "broken"
        whole = self.start(unbroken)
        whole.communicate()
        self.assertEqual(whole.returncode, 0)

        victim = self.start(broken)
        with victim:
            for line in victim.stdout:
                if json.loads(line)["step"] == KILLED_AT:
                    victim.kill()
                    break
        self.assertEqual(victim.returncode, -signal.SIGKILL)
        _, state = self.outcome(broken)
        self.assertIn(state["progress"]["step"], range(1, STEPS), "it was not killed in the middle")

        again = self.start(broken)
        printed, _ = again.communicate()
        self.assertEqual(again.returncode, 0)
        self.assertEqual(json.loads(printed.splitlines()[0])["step"], state["progress"]["step"] + 1)
        (log, ended), (expected_log, expected) = self.outcome(broken), self.outcome(unbroken)
        self.assertEqual(log, expected_log)
        self.assertEqual(ended["progress"]["step"], STEPS)
        for name, weight in expected["model"].items():
            self.assertTrue(torch.equal(ended["model"][name], weight), name)


class Exported(OnTinyCorpus):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Model(TINY)
        self.out = self.folder / "model"
        export.export(self.model, self.tokens / "tokenizer.json", self.out)

    def test_names_and_shapes_are_those_of_qwen3_moe(self):
        h, heads, kv, ffn = TINY.hidden, 2 * 16, 16, TINY.ffn
        layer = {
            "input_layernorm": (h,),
            "post_attention_layernorm": (h,),
            "self_attn.q_norm": (16,),
            "self_attn.k_norm": (16,),
            "self_attn.q_proj": (heads, h),
            "self_attn.k_proj": (kv, h),
            "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, heads),
            "mlp.gate": (TINY.experts, h),
        }
        for e in range(TINY.experts):
            layer |= {f"mlp.experts.{e}.{n}_proj": (ffn, h) for n in ("gate", "up")}
            layer[f"mlp.experts.{e}.down_proj"] = (h, ffn)
        expected = {"model.embed_tokens.weight": (TINY.vocab, h), "model.norm.weight": (h,)}
        expected |= {f"model.layers.{i}.{n}.weight": s for i in range(TINY.layers) for n, s in layer.items()}
        stored = export.load_file(self.out / "model.safetensors")
        self.assertEqual({name: tuple(weight.shape) for name, weight in stored.items()}, expected)
        self.assertEqual({weight.dtype for weight in stored.values()}, {torch.bfloat16})

    def test_what_is_read_back_is_the_model_rounded_to_bf16(self):
        again = export.read(self.out)
        self.assertEqual(again.shape, TINY)
        expected = {name: weight.bfloat16().float() for name, weight in self.model.state_dict().items()}
        for name, weight in again.state_dict().items():
            self.assertTrue(torch.equal(weight, expected[name]), name)

    def test_measuring_refuses_a_directory_of_another_model(self):
        measure.shipped(self.out, self.model)
        with self.assertRaisesRegex(SystemExit, "export it again"):
            measure.shipped(self.out, Model(TINY))

    def test_transformers_computes_the_same_logits(self):
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            self.skipTest("`transformers` is not installed")
        theirs = AutoModelForCausalLM.from_pretrained(self.out, dtype=torch.float32).eval()
        ours, ids = export.read(self.out), torch.randint(0, TINY.vocab, (2, TINY.context))
        with torch.no_grad():
            torch.testing.assert_close(ours.logits(ours(ids)[0]), theirs(ids).logits, rtol=0, atol=1e-4)


class Twins(unittest.TestCase):
    def test_parameters_are_counted_as_the_models_have_them(self):
        for shape in (TINY, TINY.iso_active(), TINY.iso_total()):
            self.assertEqual(sum(p.numel() for p in Model(shape).parameters()), shape.parameters()[0])

    def test_a_twin_has_as_many_active_or_total_parameters(self):
        shape = Shape()
        total, active = shape.parameters()
        for twin, expected in ((shape.iso_active(), active), (shape.iso_total(), total)):
            self.assertEqual(*twin.parameters())
            self.assertLess(abs(twin.parameters()[0] / expected - 1), 0.015)


if __name__ == "__main__":
    unittest.main()
