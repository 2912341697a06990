"""The comparison with other engines, as far as it needs none of them.

The arithmetic needs the standard library alone; the model files need numpy, and to be read back the package gguf.
"""

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import gpu
from comparison import Comparison, Row, Size, Test, best, table
from memory_group import group, size
from programs import Failure, IkLlama, Moebius, Peer, output
from side_by_side import empty_row, run_peer, turned, typed
from within_memory import Side, shown

HERE = Path(__file__).resolve().parent
TINY = dict(hidden_size=64, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
TINY |= dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, vocab_size=300, tie_word_embeddings=False)
TINY |= dict(max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1e4, moe_intermediate_size=32)
TINY |= dict(attention_multiplier=0.1, embedding_multiplier=12.0, logits_scaling=6.0, residual_multiplier=0.2)


def row(moebius: list[float], **peers: list[float]) -> Row:
    return Row("m", "q4_0", "pp1", {peer: f"set {peer}" for peer in peers}, moebius, peers)


def have(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


class Arithmetic(unittest.TestCase):
    def test_every_combination_is_one_test_and_zero_is_none(self):
        self.assertEqual([str(test) for test in Test.all([512, 0], [64], [1, 8, 1])], ["pp512", "tg64", "tg64x8"])
        self.assertEqual(Test.all([0], [0], [1]), [])

    def test_names_of_tests_are_read_back_and_others_are_refused(self):
        for test in Test.all([1, 512], [64], [1, 8]):
            self.assertEqual(Test.parse(str(test)), test)
        for name in ("", "pp", "pp0", "tg64x0", "tg64 x b8", "xx1"):
            with self.assertRaisesRegex(ValueError, f"`{name}`"):
                Test.parse(name)

    def test_ratios_are_of_rounds_and_not_of_medians(self):
        # A round at half the speed of the others slows both sides; the ratio stays.
        record = row([30.0, 10.0, 24.0], a=[15.0, 5.0, 20.0]).record()
        self.assertEqual((record["ratio"], record["ratio_lowest"], record["ratio_highest"]), (2.0, 1.2, 2.0))
        self.assertEqual((record["moebius_tokens_per_second"], record["peer_tokens_per_second"]), (24.0, {"a": 15.0}))

    def test_the_ratio_is_to_the_fastest_peer_of_each_round(self):
        record = row([30.0, 30.0, 30.0], a=[10.0, 20.0, 10.0], b=[15.0, 15.0, 15.0]).record()
        self.assertEqual((record["ratio"], record["ratio_lowest"], record["ratio_highest"]), (2.0, 1.5, 2.0))
        self.assertEqual(record["ratio_to"], {"a": 3.0, "b": 2.0})

    def test_rounds_without_a_partner_are_an_error(self):
        with self.assertRaises(ValueError):
            row([1.0], a=[]).ratios()
        with self.assertRaises(ValueError):
            row([1.0], a=[1.0], b=[]).ratios()

    def test_another_program_is_first_in_each_round(self):
        rounds = [turned(["a", "b", "c"], number) for number in range(4)]
        self.assertEqual(rounds, [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]])

    def test_the_setting_of_the_highest_median_is_the_best_and_the_first_of_equals(self):
        self.assertEqual(best({"a": [1.0, 9.0, 1.0], "b": [2.0, 2.0, 2.0]}), "b")
        self.assertEqual(best({"a": [2.0], "b": [2.0]}), "a")

    def test_sizes_that_are_apart_are_marked(self):
        self.assertEqual(Size("m", "f", 1010, 1000).note(), "")
        self.assertEqual(Size("m", "f", 1000, 1100).note(), "**9% apart**")

    def test_tables_have_a_column_for_each_name(self):
        self.assertEqual(table(("a", "b"), "lr", [("1", "2")]), ["| a | b |", "| --- | --: |", "| 1 | 2 |"])

    def test_both_outputs_carry_the_ratio(self):
        found = Comparison({"machine": "abacus"}, [row([150.0], a=[40.0])], [Size("m", "q4_0", 1, 1)])
        self.assertIn("- machine: abacus", found.markdown())
        self.assertIn("| model | format | test | moebius t/s | a t/s | ratio | range | a's setting |", found.markdown())
        self.assertIn("| m | q4_0 | pp1 | 150 | 40.0 | **3.75** | 3.75 to 3.75 | set a |", found.markdown())
        self.assertEqual(json.loads(found.json())["rows"][0]["ratio"], 3.75)

    def test_two_peers_have_columns_and_ratios_of_their_own(self):
        found = Comparison({}, [row([150.0], a=[40.0], b=[50.0])], [Size("m", "q4_0", 1, 1)])
        names = "moebius t/s | a t/s | b t/s | ratio | range | to a | to b | a's setting | b's setting |"
        self.assertIn(f"| model | format | test | {names}", found.markdown())
        cells = "150 | 40.0 | 50.0 | **3.00** | 3.00 to 3.00 | 3.75 | 3.00 | set a | set b |"
        self.assertIn(f"| m | q4_0 | pp1 | {cells}", found.markdown())
        self.assertIn("| model | format | moebius MB | a and b MB |", found.markdown())


class Scripted(Peer):
    """A peer whose speeds are given: by setting, tokens per second of each test; a setting of None fails."""

    name = "scripted"

    def __init__(self, speeds: dict[str, dict[str, float] | None]):
        super().__init__(threads=1)
        self.speeds, self.settings = speeds, tuple(speeds)

    def run(self, path: Path, tests: list[Test], setting: str, samples: int) -> list[dict]:
        speeds = self.speeds[setting]
        if speeds is None:
            raise Failure(f"no {setting}", "none")
        return [dict(test=str(test), samples_tokens_per_second=[speeds[str(test)]] * samples) for test in tests]

    def about(self) -> str:
        return "1"


class Peers(unittest.TestCase):
    TESTS = Test.all([1], [2], [1, 8])
    FORMS = {"bf16": (), "bf16, rounded": ("--bf16-activations",)}

    def test_in_bf16_moebius_runs_as_it_is_and_rounding_as_the_peers_do(self):
        moebius = Moebius("m", ["-p", "1"], 2)
        self.assertEqual(moebius.forms("q4_0"), {"q4_0": moebius})
        forms = moebius.forms("bf16")
        self.assertEqual({form: of.options for form, of in forms.items()}, self.FORMS)
        self.assertIs(forms["bf16"], moebius)

    def test_every_form_of_moebius_stands_beside_the_same_samples_of_a_peer(self):
        peer = Scripted({"a": dict(pp1=1.0, tg2=2.0, tg2x8=3.0), "b": dict(pp1=4.0, tg2=5.0, tg2x8=6.0)})
        chosen = {"a": self.TESTS[:2], "b": self.TESTS[2:]}
        rows = {(f, test): empty_row("m", f, test, {"scripted": chosen}) for f in self.FORMS for test in self.TESTS}
        for _ in range(2):
            run_peer(peer, Path("x"), chosen, rows)
        for form in self.FORMS:
            samples = [rows[form, test].peers["scripted"] for test in self.TESTS]
            self.assertEqual(samples, [[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]])
            self.assertEqual({rows[form, test].format for test in self.TESTS}, {form})

    def choose(self, speeds: dict[str, dict[str, float] | None]) -> dict[str, list[str]]:
        with contextlib.redirect_stderr(io.StringIO()):
            chosen = Scripted(speeds).choose(Path("x"), self.TESTS)
        return {setting: [str(test) for test in tests] for setting, tests in chosen.items()}

    def test_each_test_gets_its_fastest_setting_and_one_that_fails_is_none(self):
        slow, mixed = dict(pp1=1.0, tg2=1.0, tg2x8=3.0), dict(pp1=2.0, tg2=2.0, tg2x8=2.0)
        self.assertEqual(self.choose({"a": slow, "b": None, "c": mixed}), {"c": ["pp1", "tg2"], "a": ["tg2x8"]})

    def test_a_peer_that_fails_in_every_setting_is_an_error_with_the_first_cause(self):
        with self.assertRaisesRegex(Failure, "no a"):
            self.choose({"a": None, "b": None})

    def test_a_checkout_without_a_library_is_an_error_that_says_what_to_build(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(Failure, "no built library") as caught:
                IkLlama(1, Path(folder), Path(folder) / "x").build()
        self.assertIn("README.md", caught.exception.hint)

    def test_settings_of_ik_llama_are_options_of_the_program_that_measures(self):
        # A program that prints what it was given in place of measuring.
        script = """#!/bin/sh\necho "{\\"test\\": \\"pp1\\", \\"said\\": \\"$2 $3 $5 $6 $GLIBC_TUNABLES\\"}"\n"""
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "bench"
            program.write_text(script, encoding="utf-8")
            program.chmod(0o755)
            peer = IkLlama(2, Path(folder), program)

            def said(setting: str) -> str:
                return peer.run(Path("m"), [Test(prompt=1)], setting, 3)[0]["said"].strip()

            self.assertEqual(said("as in the file"), "2 3 - pp1")
            self.assertEqual(said("repack, merge, huge pages"), "2 3 repack,merge pp1 glibc.malloc.hugetlb=1")
            self.assertEqual(said("repack, no flash attention"), "2 3 repack,no-flash-attention pp1")


class Command(unittest.TestCase):
    def check(self, arguments: list[str], *expected: str) -> None:
        command = [sys.executable, str(HERE / "side_by_side.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, "")
        for words in expected:
            self.assertIn(words, done.stderr)

    def test_a_missing_shape_is_an_error_of_use(self):
        self.check([], "--shape")
        self.check(["--shape", "olmoe-1b-7b", "-p", "x"], "-p")

    @unittest.skipIf(have("llama_cpp"), "the peer is installed")
    def test_a_missing_peer_is_an_error_that_says_how_to_install_it(self):
        self.check(["--shape", "olmoe-1b-7b"], "error: no Python package", "`llama_cpp`", "hint: pip install")

    @unittest.skipUnless(have("llama_cpp", "gguf", "numpy"), "the peer is not installed")
    def test_what_cannot_be_measured_is_refused_with_what_can(self):
        shape = ["--moebius", sys.executable, "--shape"]
        self.check([*shape, "olmo"], "unknown shape `olmo`", "olmoe-1b-7b", "hint: ")
        self.check([*shape, "qwen1.5-moe-a2.7b"], "family `qwen2_moe`", "qwen3_moe", "hint: ")
        self.check([*shape, "olmoe-1b-7b", "--format", "q3_k"], "unknown format `q3_k`", "q4_k_m", "hint: ")
        self.check([*shape, "olmoe-1b-7b", "-p", "0", "-n", "0"], "nothing to measure", "hint: ")
        self.check([*shape, "olmoe-1b-7b", "-r", "0"], "`-r` is 0", "hint: ")
        self.check(["--moebius", "./no-such", "--shape", "olmoe-1b-7b"], "no `moebius` program", "hint: cargo build")

    def test_a_program_that_fails_or_is_not_there_is_an_error_with_what_it_said(self):
        with self.assertRaisesRegex(Failure, "the sum failed: no sum"):
            output([sys.executable, "-c", "import sys; sys.exit('no sum')"], "the sum")
        with self.assertRaisesRegex(Failure, "cannot run `./no-such`"):
            output(["./no-such"], "nothing")

    def test_the_command_is_shown_without_the_folders_of_a_machine(self):
        shown = typed(["--moebius", "a/moebius", "--shape", "x:2", "--keep=b", "-p", "1,2"])
        self.assertEqual(shown, "`python benches/peers/side_by_side.py --shape x:2 -p 1,2`")
        for given in (["--ik-llama", "/opt/ik"], ["--ik-llama=/opt/ik"]):
            self.assertEqual(typed(given), "`python benches/peers/side_by_side.py --ik-llama ik_llama.cpp`")


class Memory(unittest.TestCase):
    def test_sizes_are_read_as_moebius_reads_them_and_nonsense_is_not(self):
        sizes = {"1GiB": 1 << 30, "1.5 GB": 1_500_000_000, "300MiB": 300 << 20, "64KiB": 1 << 16}
        self.assertEqual({text: size(text) for text in sizes}, sizes)
        for text in ("", "1", "GiB", "50%", "-1GiB", "1gib"):
            with self.assertRaises(ValueError):
                size(text)

    def test_a_system_without_control_groups_is_a_failure_with_a_hint(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(Failure) as caught, group(1 << 30, Path(folder) / "none"):
                self.fail("there is no group")
        self.assertIn("root", caught.exception.hint)

    def test_a_side_tells_medians_ranges_and_the_highest_peaks(self):
        gib = 1 << 30
        side = Side("a", [], Path(), [3.0, 1.0, 2.0], [gib // 2, gib, gib], [gib, None, gib], [10**9, 10**9, 3 * 10**9])
        self.assertEqual(side.cells(), ("a", "2.00", "1.00 to 3.00", "1,024", "1,024", "1.0"))
        self.assertEqual(Side("a", [], Path(), [1.0], [gib], [None], [0]).cells()[-2], "n/a")

    def test_the_command_is_shown_without_folders_of_one_machine(self):
        typed = ["--keep", "/mine", "-n", "8", "--moebius", "/bin/m"]
        self.assertEqual(shown(typed), "`python benches/peers/within_memory.py -n 8`")


@unittest.skipUnless(have("numpy"), "numpy is not installed")
class Models(unittest.TestCase):
    def shape(self, folder: str, kind: str, **changes: object):
        import gguf_model

        config = TINY | dict(model_type=kind) | changes
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return gguf_model.shape(folder)

    def test_places_get_the_formats_that_moebius_holds(self):
        from formats import held

        def names(choice: str, cols: int = 512) -> list[str]:
            return [held(choice, place, cols).name for place in ("experts", "attention", "head", "router")]

        self.assertEqual(names("q8_0"), ["q8_0", "q8_0", "q8_0", "f32"])
        self.assertEqual(names("q4_0"), ["q4_0", "q4_0", "q6_k", "f32"])
        self.assertEqual(names("q4_k_m"), ["q4_k", "q6_k", "q6_k", "f32"])
        self.assertEqual(names("q5_k_m"), ["q5_k", "q6_k", "q6_k", "f32"])
        self.assertEqual(names("q5_k"), ["q5_k", "q5_k", "q5_k", "f32"])
        self.assertEqual(names("q4_k", 96), ["q8_0", "q8_0", "q8_0", "f32"])
        self.assertEqual(names("q4_k", 48), ["bf16", "bf16", "bf16", "f32"])

    def test_layers_can_be_cut_and_bytes_follow(self):
        import gguf_model

        one, two = (gguf_model.weight_bytes(gguf_model.shape("olmoe-1b-7b", layers), "q8_0") for layers in (1, 2))
        blocks = (64 * 3 * 1024 * 2048 + 4 * 2048 * 2048) // 32
        floats = 64 * 2048 + 4 * 2048
        self.assertEqual(two - one, blocks * 34 + floats * 4)

    @unittest.skipUnless(have("gguf"), "gguf is not installed")
    def test_a_file_of_every_family_and_format_is_read_back_with_weights_of_the_wanted_size(self):
        import gguf
        import numpy as np

        import gguf_model
        from formats import FORMATS

        for kind, wide in (("olmoe", 256), ("granitemoe", 64), ("qwen3_moe", 256), ("mixtral", 64)):
            for choice in FORMATS:
                with self.subTest(kind=kind, format=choice), tempfile.TemporaryDirectory() as folder:
                    shape = self.shape(folder, kind, hidden_size=wide, tie_word_embeddings=kind == "granitemoe")
                    path = Path(folder) / "model.gguf"
                    gguf_model.write(path, shape, choice)
                    reader = gguf.GGUFReader(path)
                    plan = list(gguf_model.tensors(shape, choice))
                    self.assertEqual([tensor.name for tensor in reader.tensors], [tensor.name for tensor in plan])
                    for read, planned in zip(reader.tensors, plan, strict=True):
                        self.assertEqual(read.tensor_type, planned.format.ggml_type, read.name)
                        self.assertEqual(tuple(read.shape)[::-1], planned.dims, read.name)
                        values = gguf.dequantize(read.data, read.tensor_type).astype(np.float64)
                        rms = float(np.sqrt((values**2).mean()))
                        wanted = planned.rms or 1.0
                        self.assertTrue(0.6 * wanted < rms < 1.5 * wanted, f"{read.name}: {rms}, not {wanted}")

    def test_a_stand_in_has_the_matrices_of_the_shape_and_no_shape_needs_one_that_is_known(self):
        import gguf_model

        shape = gguf_model.shape("olmoe-1b-7b", 2)
        other = gguf_model.stand_in(shape)
        self.assertEqual(other.model_type, "qwen3_moe")

        def matrices(of) -> list:
            return [tensor for tensor in gguf_model.tensors(of, "q4_0") if len(tensor.dims) > 1]

        self.assertEqual(matrices(other), matrices(shape))
        granite = gguf_model.shape("granite-1b-a400m", 2)
        self.assertIs(gguf_model.stand_in(granite), granite)

    @unittest.skipUnless(have("gguf"), "gguf is not installed")
    def test_the_same_seed_gives_the_same_file(self):
        import gguf_model

        with tempfile.TemporaryDirectory() as folder:
            shape = self.shape(folder, "olmoe")
            written = []
            for seed in (0, 0, 1):
                path = Path(folder) / "model.gguf"
                gguf_model.write(path, shape, "q4_0", seed)
                written.append(path.read_bytes())
        self.assertTrue(written[0] == written[1] != written[2])


class OnAGpu(unittest.TestCase):
    shape = gpu.Shape(hidden=2048, ffn=1024, experts=64, top_k=8)

    def test_one_token_reads_its_experts_and_many_read_all(self):
        self.assertEqual(self.shape.distinct(1), 8)
        self.assertAlmostEqual(self.shape.distinct(1000), 64)
        self.assertEqual(self.shape.bytes_read(8), 8 * 3 * 2048 * 1024 * 2)
        self.assertEqual(self.shape.operations(2), 2 * 2 * 8 * 3 * 2048 * 1024)

    def test_rows_compare_with_moebius_and_with_what_the_device_can_do(self):
        seconds = {"moebius": 1e-3, "transformers eager": 3e-3}
        most = {"bytes": self.shape.bytes_read(8) / 0.5e-3, "operations": self.shape.operations(1) / 1e-4}
        own, peer = gpu.compared("olmoe-1b-7b", self.shape, 1, seconds, most)
        self.assertEqual((own["ratio"], round(own["bandwidth"], 6), round(own["arithmetic"], 6)), (None, 0.5, 0.1))
        self.assertAlmostEqual(peer["ratio"], 3.0)
        self.assertIn("| olmoe-1b-7b | 1 | transformers eager | 3000.0 | 17% | 3% | 3.00x |", gpu.table([own, peer]))

    def test_what_candle_prints_is_seconds_by_batch(self):
        self.assertEqual(gpu.candle_seconds("1 0.00025\n512 0.003\n"), {1: 0.00025, 512: 0.003})

    @unittest.skipIf(have("torch"), "torch is installed")
    def test_without_torch_the_hint_says_what_to_install(self):
        done = subprocess.run([sys.executable, HERE / "gpu.py"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("pip install torch transformers", done.stderr)


if __name__ == "__main__":
    unittest.main()
