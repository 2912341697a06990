"""The model card and its figures, and that those in the repository are made from its measurements.

Needs the standard library alone.
"""

import json
import re
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import card
import plots

MODEL = Path(__file__).resolve().parent.parent / "moebius-tiny"


class Card(unittest.TestCase):
    def test_the_card_in_the_repository_is_made_from_its_measurements(self):
        measured = json.loads((MODEL / "measurements.json").read_text(encoding="utf-8"))
        for name, content in card.made(measured).items():
            self.assertEqual((MODEL / name).read_text(encoding="utf-8"), content, f"{name}: run card.py")

    def test_the_measurements_are_of_the_model_in_the_repository(self):
        measured = json.loads((MODEL / "measurements.json").read_text(encoding="utf-8"))
        config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
        shape = measured["models"]["moe"]["shape"]
        self.assertEqual(shape["experts"], config["num_experts"])
        self.assertEqual(shape["top_k"], config["num_experts_per_tok"])
        self.assertEqual(shape["ffn"], config["moe_intermediate_size"])

    def test_an_unfinished_run_is_called_a_draft(self):
        measured = json.loads((MODEL / "measurements.json").read_text(encoding="utf-8"))
        self.assertFalse("Draft" in card.card(measured), "a run is not finished")
        measured["models"]["moe"]["steps"] -= 1
        self.assertTrue("**Draft: moe after step" in card.card(measured))

    def test_the_card_names_the_sources_as_their_licences_ask(self):
        for owner in ("African Storybook (www.africanstorybook.org), CC BY", "Pratham Books / StoryWeaver, CC BY"):
            self.assertIn(owner, " ".join(card.attribution().replace(">", "").split()))

    def test_experts_that_a_domain_prefers_add_most_and_come_by_their_lift(self):
        layer = {"shares": [[0.50, 0.10, 0.40], [0.30, 0.00, 0.70]]}
        # 0.5 ln(0.5 / 0.4) = 0.112 and 0.1 ln(0.1 / 0.05) = 0.069; expert 2 is below its mean in the first.
        self.assertEqual([(e, round(lift, 2)) for e, lift in card.preferred(layer, 0)], [(1, 2.0), (0, 1.25)])
        self.assertEqual([e for e, _ in card.preferred(layer, 1)], [2])


class Plots(unittest.TestCase):
    def test_smoothing_keeps_a_straight_line(self):
        line = [[x, 2.0 * x] for x in range(9)]
        self.assertEqual(plots.smooth(line), [(x, y) for x, y in line])

    def test_experts_are_sorted_by_their_favourite_domain(self):
        named = [(0, "b", 1.2), (1, "a", 1.5), (2, "b", 1.9), (3, "a", 1.1)]
        layer = {"favourites": [dict(expert=e, domain=d, lift=lift) for e, d, lift in named]}
        self.assertEqual(plots.ordered(layer, ["a", "b"]), [1, 3, 2, 0])

    def test_figures_are_whole_svg_without_text_outside_the_page(self):
        curve = {"training": [[i * 1e5, 5 - i / 30] for i in range(1, 100)], "validation": [[5e6, 3.0], [9.9e6, 2.0]]}
        favourite = [dict(expert=e, domain="ab"[e], lift=1.5) for e in range(2)]
        routing = {"domains": ["a", "b"], "layers": [{"shares": [[0.7, 0.3], [0.2, 0.8]], "favourites": favourite}]}
        model = {"curve": curve, "run": {"phases": [4e6, 2e7]}}
        for figure in (plots.loss({"moe": model, "iso-active": model}), plots.experts(routing)):
            root = ElementTree.fromstring(figure)
            width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
            texts = [node for node in root if node.tag.endswith("text")]
            self.assertGreater(len(texts), 4)
            for node in texts:
                self.assertTrue(0 <= float(node.attrib["x"]) <= width and 0 <= float(node.attrib["y"]) <= height)
            self.assertIsNone(re.search(r"nan|inf", figure.split("</style>")[1]))


if __name__ == "__main__":
    unittest.main()
