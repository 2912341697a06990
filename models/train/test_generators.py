"""The text generators of the corpus, and the texts that were made with them. Needs the standard library alone."""

import ast
import random
import re
import unittest
from pathlib import Path

from corpus import arithmetic, functions, mukashi, stories

GENERATORS = {"arithmetic": arithmetic, "functions": functions, "mukashi": mukashi, "stories": stories}
DOCUMENTS = 300
HERE = Path(__file__).resolve().parent
EVAL = HERE.parent / "moebius-tiny" / "eval"


def documents(name: str, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [GENERATORS[name].document(rng) for _ in range(DOCUMENTS)]


def lists(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def is_right(line: str) -> bool:
    """Whether one line of an arithmetic document is true, worked out here from the text alone."""
    if found := re.fullmatch(r"(?:What|How much) is (.+)\? (?:It is )?(\d+)\.?", line):
        return eval(found[1]) == int(found[2])
    if found := re.fullmatch(r"(max|min|sorted|sum)\((\[.*\])\) = (.+)", line):
        function = {"max": max, "min": min, "sorted": sorted, "sum": sum}[found[1]]
        return function(ast.literal_eval(found[2])) == ast.literal_eval(found[3])
    if found := re.fullmatch(r"count by (\d+): (.+)", line):
        numbers = lists(found[2])
        return all(b - a == int(found[1]) for a, b in zip(numbers, numbers[1:]))
    if found := re.fullmatch(r"([\d +*/-]+?) ?([<>=]) ?(\d+)", line):
        left, right = eval(found[1]), int(found[3])
        return {"<": left < right, ">": left > right, "=": left == right}[found[2]]
    return False


class Generators(unittest.TestCase):
    def test_a_seed_gives_the_same_documents_again_and_another_seed_others(self):
        for name in GENERATORS:
            with self.subTest(name):
                self.assertEqual(documents(name), documents(name))
                self.assertNotEqual(documents(name), documents(name, seed=2))

    def test_documents_hold_text_and_no_marks_of_their_templates(self):
        marks = {
            "stories": r"[\[\]{}|]|  | [,.!?]|\b[Aa] [aeiou]",
            "mukashi": r"[\[\]{}|]|[A-Za-z]|。。|、、",
            "functions": r"\$|^(==|>>|>!|--|vars)",
            "arithmetic": r"[{}|]",
        }
        for name, pattern in marks.items():
            for document in documents(name):
                with self.subTest(name, document=document):
                    self.assertEqual(document, document.strip())
                    self.assertTrue(document)
                    self.assertIsNone(re.search(pattern, document, re.MULTILINE))

    def test_documents_are_many(self):
        for name in GENERATORS:
            self.assertGreater(len(set(documents(name))), DOCUMENTS * 0.95, name)

    def test_every_python_document_is_python_and_runs(self):
        for document in documents("functions"):
            with self.subTest(document=document):
                namespace = {"__name__": "generated"}
                exec(compile(ast.parse(document), "document", "exec"), namespace | {"print": lambda *_: None})

    def test_every_generated_test_passes(self):
        tests = 0
        for document in documents("functions"):
            if "\ndef test_" not in document:
                continue
            namespace = {}
            exec(document, namespace)
            for name in [name for name in namespace if name.startswith("test_")]:
                with self.subTest(document=document, name=name):
                    namespace[name]()
                    tests += 1
        self.assertGreater(tests, 50)

    def test_every_line_of_arithmetic_is_right(self):
        for document in documents("arithmetic"):
            for line in document.split("\n"):
                self.assertTrue(is_right(line), line)

    def test_wrong_lines_would_be_noticed(self):
        for line in ("1+1=3", "2 < 1", "max([1, 2]) = 1", "count by 2: 1, 2", "What is 1+1? It is 3.", "words"):
            self.assertFalse(is_right(line), line)


class HeldOut(unittest.TestCase):
    """What `heldout.py` wrote, as it lies in the repository."""

    def texts(self) -> dict[str, str]:
        return {path.stem: path.read_text(encoding="utf-8") for path in EVAL.glob("*.txt")}

    def test_there_is_one_text_for_each_domain_of_some_size(self):
        texts = self.texts()
        self.assertEqual(set(texts), {"stories", "tales", "python", "arithmetic", "japanese"})
        for name, text in texts.items():
            self.assertIn(len(text.encode()), range(12_000, 20_001), name)
            self.assertNotIn("<|endoftext|>", text)
            self.assertNotIn("\r", text)

    def test_python_parses_and_arithmetic_is_right(self):
        texts = self.texts()
        ast.parse((HERE / "handwritten" / "python.txt").read_text(encoding="utf-8"))
        ast.parse(texts["python"].replace("from __future__ import annotations\n", ""))
        for line in filter(None, texts["arithmetic"].split("\n")):
            self.assertTrue(is_right(line), line)

    def test_what_is_written_by_hand_comes_first(self):
        for path in (HERE / "handwritten").glob("*.txt"):
            by_hand = path.read_text(encoding="utf-8").strip("\n")
            self.assertTrue(self.texts()[path.stem].startswith(by_hand + "\n\n"), path.stem)


if __name__ == "__main__":
    unittest.main()
