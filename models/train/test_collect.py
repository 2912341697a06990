"""Tests of corpus/collect.py, without a network: local repositories stand for GitHub.

    python -m unittest discover -s models/train
"""

import contextlib
import io
import os
import subprocess
import tempfile
import unittest
from pathlib import Path, PurePosixPath
from unittest import mock

from corpus import collect
from corpus.collect import CollectError, Documents, Repository, Store

ABSENT_COMMIT = "0123456789" * 4


def run_git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


class Words(unittest.TestCase):
    def test_typography_becomes_ascii(self) -> None:
        text = "\ufeff\u201cYes\u201d\u2014she\u2019s here\u2026  \r\n\r\n\r\n\r\n\tEnd\u00a0now "
        self.assertEqual(collect.tidy(text), "\"Yes\"--she's here...\n\n    End now")

    def test_stories_are_split_at_separators(self) -> None:
        self.assertEqual(collect.split_stories("a<|endoftext|>b\nOnce upon a time c"), ["a", "b\nOnce upon a time c"])

    def test_stories_without_separators_are_split_at_openings(self) -> None:
        text = "Once upon a time a.\nMore.\nOnce there was b.\n\nOne day, a dog c."
        self.assertEqual(
            collect.split_stories(text), ["Once upon a time a.\nMore.", "Once there was b.\n", "One day, a dog c."]
        )

    def test_only_unrestricted_licences_are_free(self) -> None:
        for licence in ("CC-BY", "CC BY 4.0", "Public Domain", "CC0"):
            self.assertTrue(collect.is_free(licence), licence)
        for licence in ("CC-BY-NC", "CC BY-NC-SA", "CC-BY-ND", "CC BY-SA", "All rights reserved", ""):
            self.assertFalse(collect.is_free(licence), licence)

    def test_a_picture_book_yields_its_pages_and_its_licence(self) -> None:
        book = (
            "# The Hat\n\n##\n\nA hat\nflew away.\n\n##\nIt came back.\n\n"
            "##\n* License: [CC-BY]\n* Text: Somebody\n* Language: en\n"
        )
        self.assertEqual(collect.picture_book(book), ("The Hat\n\nA hat flew away.\n\nIt came back.", "CC-BY"))

    def test_a_chapter_loses_its_number_notes_and_figures(self) -> None:
        markup = (
            "<html><head><title>I</title></head><body><section><h2>IV</h2><figure><img/></figure>"
            '<p>Tom &amp; I<a href="x" epub:type="noteref">1</a> went.</p>\n<p>Out.</p></section></body></html>'
        )
        self.assertEqual(collect.xhtml_text(markup), "Tom & I went.\n\nOut.")

    def test_a_book_is_cut_at_headings_and_loses_what_is_about_the_edition(self) -> None:
        tale = "\n\n".join(["The king went\nout to see the wide world."] * 30)
        text = (
            f"Header\r\n*** START OF THIS BOOK ***\n\n\n\nPREFACE\n\n{tale}\n\n\n\nTHE KING\n\n{tale}\n\n\n"
            f"Too Short\n\nNo.\n\n\nMade up\n\nProduced by me.\n\n{tale}\n*** END OF THIS BOOK ***\nFooter"
        )
        joined = tale.replace("went\nout", "went out")
        self.assertEqual(list(collect.chapters(collect.gutenberg_body(text))), [f"The King\n\n{joined}"])

    def test_a_text_without_headings_is_cut_between_paragraphs(self) -> None:
        paragraph = "word " * 1000
        parts = list(collect.cut("\n\n".join([paragraph] * 13)))
        self.assertEqual([part.count("\n\n") + 1 for part in parts], [3, 3, 3, 3, 1])

    def test_japanese_loses_ruby_and_annotations(self) -> None:
        body = "｜山猫《やまねこ》がわらいました。［＃改行］\n\n\u3000" + "きました。" * 80
        raw = f"どんぐり《ドングリ》\n作者\n{'-' * 30}\n記号について\n{'-' * 30}\n{body}\n底本：「全集」\n"
        expected = ("どんぐり", "山猫がわらいました。\n" + "きました。" * 80)
        self.assertEqual(collect.aozora_text(raw.encode("cp932")), expected)

    def test_japanese_that_does_not_fit_is_left_out(self) -> None:
        kana = "きました。" * 80
        for text in ("国境山脈" * 200, kana + "學國", "短いです。", kana + "\n底本：「全集」\nCreative Commons"):
            self.assertIsNone(collect.aozora_text(f"題\n作者\n{text}".encode("cp932")), text[-30:])

    def test_tests_and_build_settings_are_not_library_modules(self) -> None:
        for path in ("json/decoder.py", "textwrap.py", "unittest/case.py"):
            self.assertTrue(collect.is_library_module(PurePosixPath(path)), path)
        for path in ("test/test_os.py", "sqlite3/test/dump.py", "_sysconfigdata__linux.py", "site-packages/six.py"):
            self.assertFalse(collect.is_library_module(PurePosixPath(path)), path)


class Kept(unittest.TestCase):
    def test_duplicates_differ_in_more_than_case_and_punctuation(self) -> None:
        kept = Documents()
        for text in ("A dog ran.", "a dog, ran", "A dog ran off."):
            kept.add(text, 1)
        self.assertEqual((kept.texts, kept.duplicates), (["A dog ran.", "A dog ran off."], 1))

    def test_near_duplicates_share_most_runs_of_words(self) -> None:
        words = [f"w{i}" for i in range(200)]
        kept = Documents(near=True)
        kept.add(" ".join(words), 1)
        kept.add(" ".join([*words[:180], "other", "end"]), 1)
        kept.add(" ".join([*words[:50], *(f"new{i}" for i in range(150))]), 1)
        self.assertEqual((len(kept.texts), kept.duplicates), (2, 1))

    def test_short_and_unwanted_documents_are_left_out(self) -> None:
        kept = Documents()
        for text in ("short", "The golliwog sat down.", "The darkness and the jewel."):
            kept.add(text, 10)
        self.assertEqual((kept.texts, kept.unwanted), (["The darkness and the jewel."], 1))

    def test_a_file_separates_documents_by_a_line_of_their_own(self) -> None:
        kept = Documents()
        kept.texts = ["one", "two<|endoftext|>\nlines", "三"]
        with tempfile.TemporaryDirectory() as folder:
            kept.write(Path(folder, "x.txt"))
            self.assertEqual(os.listdir(folder), ["x.txt"])
            written = Path(folder, "x.txt").read_bytes().decode("utf-8")
        self.assertEqual(written, "one\n<|endoftext|>\ntwo\nlines\n<|endoftext|>\n三\n<|endoftext|>\n")


class Repositories(unittest.TestCase):
    """`origin/owner/name` is what GitHub has; its first commit is the pinned one."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.messages = io.StringIO()
        self.enterContext(contextlib.redirect_stderr(self.messages))
        self.origin = self.folder / "origin/owner/name"
        (self.origin / "en").mkdir(parents=True)
        run_git(self.origin, "init", "--quiet")
        for setting in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
            run_git(self.origin, "config", setting, "true")
        (self.origin / "en/ä story.md").write_text("pinned\n", encoding="utf-8")
        (self.origin / "en/b.md").write_bytes(b"two\nlines")
        (self.origin / "image.png").write_bytes(b"unread")
        self.pinned = self.commit()
        (self.origin / "en/b.md").write_bytes(b"newer")
        self.newest = self.commit()
        self.repository = Repository("owner/name", self.pinned, "CC0-1.0")
        self.cache = self.folder / "cache"
        self.mirror = self.folder / "mirror"
        self.mirror.mkdir()

    def commit(self) -> str:
        run_git(self.origin, "add", "--all")
        run_git(self.origin, "commit", "--quiet", "--message=texts")
        return run_git(self.origin, "rev-parse", "HEAD")

    def markdown(self, store: Store, commit: str | None = None) -> list[tuple[str, bytes]]:
        repository = Repository("owner/name", commit or self.pinned, "CC0-1.0")
        return store.files(repository, "en", lambda path: path.endswith(".md"))

    def check_pinned(self, store: Store) -> None:
        self.assertEqual(sorted(self.markdown(store)), [("en/b.md", b"two\nlines"), ("en/ä story.md", b"pinned\n")])

    def test_every_layout_of_a_mirror_is_read_at_the_pinned_commit(self) -> None:
        for place, bare in (("owner+name", []), ("owner+name.git", ["--bare"]), ("owner+name/repo", ["--bare"])):
            mirror = self.folder / f"mirror of {place.replace('/', ' ')}"
            mirror.mkdir()
            run_git(mirror, "clone", "--quiet", *bare, str(self.origin), place)
            with self.subTest(place):
                self.check_pinned(Store(self.cache, mirror))
        self.assertFalse(self.cache.exists())

    def test_a_download_holds_the_wanted_files_only_and_serves_again_offline(self) -> None:
        store = Store(self.cache, remote=f"file://{self.folder}/origin")
        self.check_pinned(store)
        objects = run_git(
            self.cache / "owner+name.git", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"
        )
        self.assertEqual(sorted(objects.split()), ["blob", "blob", "commit", "tree", "tree"])
        self.origin.rename(self.folder / "unreachable")
        self.check_pinned(store)

    def test_a_missing_commit_gives_way_to_head_with_a_warning(self) -> None:
        run_git(self.mirror, "clone", "--quiet", str(self.origin), "owner+name")
        for store in (Store(self.cache, self.mirror), Store(self.cache, remote=f"file://{self.folder}/origin")):
            self.assertIn(("en/b.md", b"newer"), self.markdown(store, ABSENT_COMMIT))
            self.assertIn(f"no commit {ABSENT_COMMIT}, using HEAD, {self.newest}", self.messages.getvalue())

    def test_a_missing_repository_is_an_error_that_names_it(self) -> None:
        for store in (Store(self.cache, self.mirror), Store(self.cache, remote=f"file://{self.folder}/nowhere")):
            with self.assertRaisesRegex(CollectError, "`owner/name`") as caught:
                self.markdown(store)
            self.assertIn("mirror", caught.exception.hint)

    def test_a_missing_repository_may_be_allowed(self) -> None:
        self.assertEqual(self.markdown(Store(self.cache, self.mirror, allow_missing=True)), [])
        self.assertIn("left out: `owner/name` is not in the mirror", self.messages.getvalue())

    def test_a_commit_without_the_expected_files_is_an_error(self) -> None:
        run_git(self.mirror, "clone", "--quiet", str(self.origin), "owner+name")
        with self.assertRaisesRegex(CollectError, "no text where it is expected, in `fr`"):
            Store(self.cache, self.mirror).files(self.repository, "fr", lambda path: True)

    def test_missing_git_is_an_error_unless_it_is_not_needed(self) -> None:
        store = Store(self.cache, self.mirror)
        with mock.patch("shutil.which", return_value=None):
            with self.assertRaisesRegex(CollectError, "`git` is not installed"):
                collect.collect(["tales"], self.folder / "out", store)
            self.enterContext(mock.patch.dict(collect.FILES, python=lambda store: Documents()))
            self.enterContext(contextlib.redirect_stdout(io.StringIO()))
            collect.collect(["python"], self.folder / "out", store)
        self.assertEqual((self.folder / "out/python.txt").read_bytes(), b"")


class Sources(unittest.TestCase):
    def test_every_source_is_pinned_to_a_whole_commit_id(self) -> None:
        repositories = [sample.repository for sample in collect.STORY_SAMPLES]
        repositories += [*collect.PICTURE_BOOKS, collect.AOZORA]
        commits = [repository.commit for repository in repositories]
        for commit in [*commits, *collect.STANDARD_EBOOKS.values(), *collect.GITENBERG.values()]:
            self.assertRegex(commit, r"^[0-9a-f]{40}$")


if __name__ == "__main__":
    unittest.main()
