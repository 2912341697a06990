"""The comparison of perplexities, as far as it needs neither numpy nor the peer."""

import contextlib
import io
import json
import math
import tempfile
import unittest
from pathlib import Path

from perplexity import Piece, Row, check_tokens, first_difference, limit, main, perplexity, pieces
from programs import Failure


class Words:
    """In place of llama.cpp: a token is a letter."""

    def tokens(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def said(*sequences: dict) -> str:
    return json.dumps({"sequences": list(sequences)})


class Perplexity(unittest.TestCase):
    def test_a_uniform_guess_among_four_is_four(self):
        self.assertAlmostEqual(perplexity([math.log(1 / 4) * 3, math.log(1 / 4) * 2], 5), 4.0)

    def test_pieces_are_what_moebius_scored_and_single_tokens_are_none(self):
        one = {"source": "a.txt", "ids": [1, 2, 3], "logprob": -1.5}
        found = pieces(said(one, {"source": "b.txt", "ids": [7], "logprob": 0.0}))
        self.assertEqual(found, [Piece("a.txt", [1, 2, 3], -1.5)])
        self.assertEqual(found[0].scored, 2)

    def test_what_is_no_score_is_told(self):
        for text in ("", "{}", said({"source": "a"}), "[]"):
            with self.assertRaisesRegex(Failure, "printed something else"):
                pieces(text)
        with self.assertRaisesRegex(Failure, "no text has two tokens"):
            pieces(said({"source": "a", "ids": [1], "logprob": 0.0}))

    def test_limits_are_narrow_for_floats_and_wide_for_blocks(self):
        self.assertEqual([limit(format) for format in ("f16", "bf16", "q8_0", "q4_k_m")], [0.001, 0.001, 0.005, 0.005])

    def test_a_row_holds_on_both_sides_of_the_peer_up_to_its_limit(self):
        for share, holds in ((1.004, True), (0.996, True), (1.006, False), (0.994, False)):
            self.assertEqual(Row("q4_0", 10.0 * share, 10.0).holds, holds, share)
        self.assertFalse(Row("f16", 10.02, 10.0).holds)
        self.assertEqual(
            Row("q4_0", 10.02, 10.0).cells(), ("q4_0", "10.02000", "10.00000", "+0.2000%", "0.5%", "yes")
        )
        self.assertEqual(Row("f16", 10.02, 10.0).cells()[-1], "NO")

    def test_the_first_token_that_differs_is_found(self):
        self.assertIsNone(first_difference([1, 2], [1, 2]))
        self.assertEqual(first_difference([1, 2, 3], [1, 9, 3]), 1)
        self.assertEqual(first_difference([1, 2], [1, 2, 3]), 2)
        self.assertEqual(first_difference([], [1]), 0)

    def test_texts_that_are_cut_otherwise_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "a.txt"
            text.write_text("abcd", encoding="utf-8")
            both = [Piece(str(text), [97, 98], 0.0), Piece(str(text), [99, 100], 0.0)]
            check_tokens(Words(), both, [text])
            with self.assertRaisesRegex(Failure, "token 2 differs"):
                check_tokens(Words(), [both[0], Piece(str(text), [100, 100], 0.0)], [text])

    def test_a_model_without_texts_and_a_program_that_is_not_there_are_told(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as told:
            self.assertEqual(main(["--model", folder]), 1)
            self.assertEqual(main(["--moebius", f"{folder}/none", "--text", folder]), 1)
        self.assertIn("has no texts in `eval`", told.getvalue())
        self.assertIn("cannot run", told.getvalue())


if __name__ == "__main__":
    unittest.main()
