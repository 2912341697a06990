"""Collects the texts of the training corpus that the project did not write and therefore does not hold.

    python models/train/corpus/collect.py --out CORPUS

writes CORPUS/{simple_stories,tales,python,japanese}.txt: UTF-8, LF, documents separated by a line that
holds only <|endoftext|>. LICENSES.md beside this file lists the sources and their licences.

Repositories are read at a pinned commit and never checked out. They come from GitHub into a cache
below CORPUS, of which only the needed files are downloaded, or from a folder of clones (--mirror DIR)
named DIR/owner+name, DIR/owner+name.git or DIR/owner+name/repo, bare or not. The Python text is the
standard library of the Python that runs this script; 3.11.7 gives the text the model was trained on.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

END_OF_TEXT = "<|endoftext|>"
GITHUB = "https://github.com"
CDLA = "CDLA-Sharing-1.0"
CC_BY = "CC BY 4.0"
CC_BY_BY_BOOK = "CC BY 3.0 or 4.0, book by book"
CC0 = "CC0-1.0"
PUBLIC_DOMAIN = "public domain"


# ---------------------------------------------------------------- sources


@dataclass(frozen=True)
class Repository:
    name: str
    """owner/name on GitHub"""
    commit: str
    licence: str
    """Of the texts that are taken from it, not of the repository around them."""


@dataclass(frozen=True)
class StorySample:
    """A file cut out of TinyStories (arXiv:2305.07759) at a byte count, so its last story is a torso."""

    repository: Repository
    path: str
    starts_inside_a_story: bool = False


STORY_SAMPLES = (
    StorySample(
        Repository("gusjengis/toy-RNN", "40f1854472f2e06a5a6e68703750bfbe016b4c50", CDLA),
        "data/tinystories_sample.txt",
    ),
    StorySample(
        Repository("s-ajaykumar/smallGPT", "b8b899265a5574abd2c19d8857039309184a357c", CDLA),
        "data/tiny_stories.txt",
    ),
    StorySample(
        Repository("yuninxia/moe-routing-bench", "bb9bb0bd461aa77cf6ab89423b758f586a6f75d1", CDLA),
        "data/tinystories_val.txt",
        starts_inside_a_story=True,
    ),
)
PICTURE_BOOKS = (
    Repository("global-asp/asp-source", "99e022369a980bd52bce8c6f86d5f24e9a4ada9d", CC_BY_BY_BOOK),
    Repository("global-asp/pb-source", "9ea530dfb0011dd1cbaf42e6ffe74aa3ef5733ed", CC_BY),
)
AOZORA = Repository("aozorahack/aozorabunko_text", "0984f7dc18a2270bdfd2ff99bf14fd1b3ebb4f65", PUBLIC_DOMAIN)
AOZORA_AUTHORS = {
    "000081": "Miyazawa Kenji, died 1933",
    "000121": "Niimi Nankichi, died 1943",
    "000107": "Suzuki Miekichi, died 1936",
    "000025": "Arishima Takeo, died 1923",
    "000879": "Akutagawa Ryunosuke, died 1927",
}
STANDARD_EBOOKS = {
    "anna-sewell_black-beauty": "12995ccb638751412c462a5985323aaa30daf4a7",
    "beatrix-potter_short-fiction": "eb4baba7bf765e1c5bea6f97515df87e2a2dcfbc",
    "e-nesbit_five-children-and-it": "0941ce48054b956e1ddc6fed6edbef5d0bcc4811",
    "e-nesbit_the-enchanted-castle": "5d9bd7ae918778e3bc3a6ce6b47de74222c620e1",
    "e-nesbit_the-phoenix-and-the-carpet": "2f373b0b8992888486c3d0905aaac4dbdd97f901",
    "e-nesbit_the-railway-children": "8903a0b2df2396caeb97adc849adb4050fe0c531",
    "e-nesbit_the-story-of-the-amulet": "9a6019cea2269c4d3856fb2e486efdfcbf053369",
    "e-nesbit_the-story-of-the-treasure-seekers": "91c91de3a9d69ced7749c2cf279c1d5c13f4f4b0",
    "eleanor-h-porter_pollyanna": "07a1743dea46cb3f2f5efde0fc911aadda5a44dd",
    "frances-hodgson-burnett_a-little-princess": "2d90450cf105c13c7247a850438c36b4a836dac8",
    "frances-hodgson-burnett_the-secret-garden": "6a4695560924886e2b396d04ef0023246d211de4",
    "george-macdonald_at-the-back-of-the-north-wind": "a9f07381f40cbc551078f35d42c2bd9a2cbb0cab",
    "george-macdonald_the-princess-and-curdie": "cb2db1861542e315cf84aefd0deecde0a8fc7a7c",
    "george-macdonald_the-princess-and-the-goblin": "53953eeb943d91b774b8333c5d3e023e86167aa2",
    "hugh-lofting_the-story-of-doctor-dolittle": "bdd63f0cc258a36de596ef57c823519c87aa9f8b",
    "hugh-lofting_the-voyages-of-doctor-dolittle": "e113b51688af76ab070e0095294dcc8a50897220",
    "j-m-barrie_peter-and-wendy": "00681491c5fc1d93755e71bc82e6220d062370e2",
    "jacob-grimm_wilhelm-grimm_household-tales_margaret-hunt": "4950ef5208c15f59e18246251983b15d06a3544a",
    "kenneth-grahame_the-wind-in-the-willows": "b44b52fea051d02764bb375fffc79066f50a9404",
    "l-frank-baum_dorothy-and-the-wizard-in-oz": "c9118c180418f7ee4e16ab54633258f9d2ed494d",
    "l-frank-baum_ozma-of-oz": "4a9227bcb82fc85a775a53f0ea50fc5b1868fd4b",
    "l-frank-baum_the-marvelous-land-of-oz": "672237e18cccb7bd89368435f41661c8edb64f81",
    "l-frank-baum_the-road-to-oz": "1de66bd8b74da22a82539d491fbb5e07cc65a7ad",
    "l-frank-baum_the-wonderful-wizard-of-oz": "8d8c2b208d56c282f4630a27ac89621c11d5dae0",
    "l-m-montgomery_anne-of-green-gables": "87a8976ae6bd342a5e20eb9b7b8399a245108246",
    "lewis-carroll_alices-adventures-in-wonderland_john-tenniel": "a4a06a86f3ecb5a9b397fd3922a1c757747c49c5",
    "lewis-carroll_through-the-looking-glass_john-tenniel": "2cc46b2d404feb4faf6b7c8550a3ec4fccdf0956",
    "louisa-may-alcott_little-women": "dbd54731731838dd6e9892780c44cf3d83ea6db7",
    "mark-twain_the-adventures-of-tom-sawyer": "f6caa2e0484963b64d7da6aa49aad0ec2781fc96",
    "robert-louis-stevenson_treasure-island": "305f56fe9a62e34724f9bbcd4c6c8890b4c46c5d",
    "rudyard-kipling_just-so-stories": "939524042806130637d6870e84874263de3c2490",
    "rudyard-kipling_the-jungle-book": "ab07cf9c0d5b4428d425b8149c975de3bf542343",
}
GITENBERG = {
    "Andersen-s-Fairy-Tales_1597": "7061c8473942cec0e218a97ef9b10e4389a4ab01",
    "Celtic-Fairy-Tales_7885": "7b36a7e9a927b7b92a8a9c2debec0aacc07002b3",
    "English-Fairy-Tales_7439": "3194dc00b8f7b4e3d364ee5b3d7625b47a6be9d1",
    "Grimms-Fairy-Tales_2591": "9991a30953853be9b40751408c3ad0d3af314fb7",
    "Heidi_1448": "3bbd4c3c6c5486bc199ae7da210cf3f9f8a70f54",
    "Indian-Fairy-Tales_7128": "41e8ee4933c0bb953b36034fa51a8f35129603c9",
    "Japanese-Fairy-Tales_4018": "178ae21dc97530fda6e790d0651f8fc78f9b06ca",
    "More-English-Fairy-Tales_14241": "c9a76b593a87ab1995cef531cc96ac3cd379be2a",
    "The-Adventures-of-Pinocchio_500": "25f470c90848f57d430eb2ec2a45bc74b2594e56",
    "The-Blue-Fairy-Book_503": "4d594f378f0dcaa61acc1791fafc6e6b0053ea41",
    "The-Brown-Fairy-Book_3282": "5425572193b88ef56c5ce5606c1e026849d2115a",
    "The-Crimson-Fairy-Book_2435": "618e9523c383a74e98c6f2689977805040c6bdcc",
    "The-Green-Fairy-Book_7277": "1177d3ea0e15d8792db31d20d817e182423ee098",
    "The-Grey-Fairy-Book_6746": "d75f3b67d95c26d0cde396bbaa7464cd1539e5de",
    "The-Lilac-Fairy-Book_3454": "42d696e1138c9c97ba3dc020120a0bc4f65730b7",
    "The-Olive-Fairy-Book_27826": "273db9b9f04fa417e62f24617b9ef848e9ca2335",
    "The-Orange-Fairy-Book_3027": "8bd06a349284a292eece65bf73b4e0df736e8d58",
    "The-Pink-Fairy-Book_5615": "a718502a8b3fee1546f79c7d2a37c332c5a0a849",
    "The-Red-Fairy-Book_540": "d18e647375b7ea35355d72a032ea925b32b77e47",
    "The-Violet-Fairy-Book_641": "7b50a1ff03d5f53aeca921214ffc49aa86f46a57",
    "The-Wonderful-Adventures-of-Nils_10935": "2438317efbbb0285c51fea25db1f0021d50cc47c",
    "The-Yellow-Fairy-Book_640": "9bf7714268e5d590d187e52b766ddec1a1ba1936",
}


# ---------------------------------------------------------------- repositories


class CollectError(Exception):
    """What keeps the corpus from being made, and what to try next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def git(git_dir: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs git on one repository, never asking for a password and never fetching objects one by one."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", f"--git-dir={git_dir}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)


def last_line(output: bytes) -> str:
    return (output.decode("utf-8", "replace").strip().splitlines() or ["git said nothing"])[-1]


def commit_of(git_dir: Path, revision: str) -> str | None:
    found = git(git_dir, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return found.stdout.decode().strip() if found.returncode == 0 else None


@dataclass(frozen=True)
class Store:
    """Where repositories come from: a folder of clones, or GitHub by way of a cache folder."""

    cache: Path
    mirror: Path | None = None
    allow_missing: bool = False
    """Go on without a repository that cannot be had: for trying out the script, not for the corpus."""
    remote: str = GITHUB

    def files(self, repository: Repository, folder: str, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
        """Paths and contents of the wanted files below a folder ("" is the root), in git's order."""
        try:
            git_dir = self._git_dir(repository)
            commit = commit_of(git_dir, repository.commit) or self._head_instead(repository, git_dir)
            return self._read(repository.name, git_dir, commit, folder, wanted)
        except CollectError as error:
            if not self.allow_missing:
                raise
            progress(f"warning: left out: {error}")
            return []

    def _git_dir(self, repository: Repository) -> Path:
        folder = repository.name.replace("/", "+")
        if not self.mirror:
            git_dir = self.cache / f"{folder}.git"
            if not commit_of(git_dir, repository.commit):
                self._download(repository, git_dir)
            return git_dir
        for place in (folder, f"{folder}.git", f"{folder}/repo", f"{folder}/repo.git"):
            for git_dir in (self.mirror / place, self.mirror / place / ".git"):
                if (git_dir / "HEAD").is_file() and (git_dir / "objects").is_dir():
                    return git_dir
        raise CollectError(
            f"`{repository.name}` is not in the mirror",
            f"git clone --bare {GITHUB}/{repository.name} {self.mirror / folder}, or --allow-missing",
        )

    def _download(self, repository: Repository, git_dir: Path) -> None:
        """Fetches the pinned commit and its folders, without history and without the files' contents."""
        progress(f"fetching {repository.name}")
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        git(git_dir, "init", "--quiet", "--bare", "--initial-branch=pinned")
        git(git_dir, "config", "remote.origin.url", f"{self.remote}/{repository.name}")
        fetch = ("fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags", "origin")
        for revision in (repository.commit, "HEAD"):
            fetched = git(git_dir, *fetch, f"+{revision}:refs/heads/pinned")
            if fetched.returncode == 0:
                return
        raise CollectError(
            f"cannot fetch `{repository.name}`: {last_line(fetched.stderr)}",
            "check the network; clones made elsewhere can be read with --mirror DIR",
        )

    def _head_instead(self, repository: Repository, git_dir: Path) -> str:
        head = commit_of(git_dir, "HEAD")
        if not head:
            raise CollectError(
                f"`{repository.name}` has neither commit {repository.commit} nor a HEAD", "clone it again"
            )
        progress(f"warning: `{repository.name}` has no commit {repository.commit}, using HEAD, {head}")
        return head

    def _read(
        self, name: str, git_dir: Path, commit: str, folder: str, wanted: Callable[[str], bool]
    ) -> list[tuple[str, bytes]]:
        listing = git(git_dir, "ls-tree", "-r", "-z", commit, *([f"{folder}/"] if folder else []))
        entries = [entry.split("\t", 1) for entry in listing.stdout.decode("utf-8", "replace").split("\0") if entry]
        chosen = [(path, facts.split()[2]) for facts, path in entries if facts.split()[1] == "blob" and wanted(path)]
        if not chosen:
            raise CollectError(
                f"`{name}` at {commit[:10]} has no text where it is expected, in `{folder or '/'}`",
                f"expected the files of the pinned commit; a full clone of {GITHUB}/{name} has it",
            )
        blobs = [blob for _, blob in chosen]
        self._complete(name, git_dir, blobs)
        return list(zip((path for path, _ in chosen), contents(git_dir, blobs), strict=True))

    def _complete(self, name: str, git_dir: Path, blobs: list[str]) -> None:
        """Downloads all file contents that a clone without them still lacks, in one request."""

        def missing() -> list[str]:
            check = git(git_dir, "cat-file", "--batch-check", stdin="\n".join(blobs).encode())
            return [line.split()[0] for line in check.stdout.decode().splitlines() if line.endswith(" missing")]

        lacking = missing()
        if not lacking:
            return
        fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no")
        source = ("--filter=blob:none", "--stdin", "origin")
        request = "".join(f"{blob}\n" for blob in lacking).encode()
        fetched = git(git_dir, "-c", "fetch.negotiationAlgorithm=noop", *fetch, *source, stdin=request)
        if missing():
            raise CollectError(
                f"`{name}` lacks {len(lacking)} files, which could not be fetched: {last_line(fetched.stderr)}",
                "check the network, or use a full clone in a folder named by --mirror",
            )


def contents(git_dir: Path, blobs: list[str]) -> Iterator[bytes]:
    """Contents of blobs, in order; `cat-file --batch` writes `<id> blob <size>`, the bytes and a line feed."""
    output = git(git_dir, "cat-file", "--batch", stdin="\n".join(blobs).encode()).stdout
    at = 0
    for _ in blobs:
        end = output.index(b"\n", at)
        size = int(output[at:end].split()[2])
        yield output[end + 1 : end + 1 + size]
        at = end + size + 2


# ---------------------------------------------------------------- documents

PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u2013\u2011", "-"),
        **dict.fromkeys("\u00a0\u2009", " "),
        **dict.fromkeys("\u2060\u200a\u200b\ufeff\u00ad", ""),
        "\u2014": "--",
        "\u2026": "...",
        "\t": "    ",
    }
)
# Slurs, and words that in books of this age announce a caricature of people. A document that has one is
# left out whole: cutting the sentence would leave the caricature.
UNWANTED = re.compile(
    r"(?i)\b(?:nigg|negro|blackamoor|dark(?:y|ies)\b|jew(?:s|ish|ess)?\b|kaffir|injun|squaw|chinam[ae]n|coolie"
    r"|golliwog|pickaninn)"
)
SHINGLE_WORDS = 8
SHINGLE_STRIDE = 3
LARGEST_SHARED_PART = 0.5


def tidy(text: str) -> str:
    """Typographic marks in ASCII, so that a small vocabulary spends no entries on them; no stray white space."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(PUNCTUATION)
    text = re.sub(r" +\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def join_lines(paragraph: str) -> str:
    return re.sub(r"\s*\n\s*", " ", paragraph).strip()


class Documents:
    """The documents of one file, without unwanted ones, without exact and (`near`) near duplicates."""

    def __init__(self, near: bool = False) -> None:
        self.texts: list[str] = []
        self.duplicates = 0
        self.unwanted = 0
        self._near = near
        self._letters: set[bytes] = set()
        self._shingles: set[int] = set()

    def add(self, text: str, shortest: int) -> None:
        """Keeps a document of at least `shortest` characters unless there is a reason not to."""
        if len(text) < shortest:
            return
        if UNWANTED.search(text):
            self.unwanted += 1
            return
        letters = hashlib.sha1(re.sub(r"\W+", "", text.lower()).encode()).digest()
        if letters in self._letters or (self._near and self._mostly_seen(text)):
            self.duplicates += 1
            return
        self._letters.add(letters)
        self.texts.append(text)

    def _mostly_seen(self, text: str) -> bool:
        """Whether most runs of eight words occur in earlier documents; if not, remembers this one's."""
        words = re.findall(r"\w+", text.lower())
        starts = range(max(1, len(words) - SHINGLE_WORDS))
        shingles = [hash(tuple(words[i : i + SHINGLE_WORDS])) for i in starts]
        sample = set(shingles[::SHINGLE_STRIDE])
        if len(sample & self._shingles) > LARGEST_SHARED_PART * len(sample):
            return True
        self._shingles.update(shingles)
        return False

    def write(self, path: Path) -> int:
        """Writes the file under another name first, so that no half file is taken for a whole one."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for text in self.texts:
                file.write(f"{text.replace(END_OF_TEXT, '')}\n{END_OF_TEXT}\n")
        os.replace(unfinished, path)
        return path.stat().st_size


# ---------------------------------------------------------------- simple stories

STORY_OPENINGS = ("Once upon a time", "Once there was", "One day, a ", "One day, there", "There was once")
SHORTEST_STORY = 120
FREE_LICENCES = {"CC", "BY", "CC0", "PUBLIC", "DOMAIN"}


def split_stories(text: str) -> list[str]:
    """Stories of a sample; where the separators were lost, a line with a usual first sentence starts one."""
    if END_OF_TEXT in text:
        return text.split(END_OF_TEXT)
    stories: list[list[str]] = [[]]
    for line in text.split("\n"):
        if stories[-1] and line.startswith(STORY_OPENINGS):
            stories.append([])
        stories[-1].append(line)
    return ["\n".join(lines) for lines in stories]


def is_free(licence: str) -> bool:
    """Whether a licence line names CC BY, CC0 or the public domain, with nothing else (NC, ND, SA) to it."""
    names = re.findall(r"[A-Z]+0?", licence.upper())
    return bool(names) and set(names) <= FREE_LICENCES


def picture_book(markdown: str) -> tuple[str, str]:
    """Text (title and pages as paragraphs) and licence of a book whose pages are set off by `##` lines."""
    found = re.search(r"\* License: \[?([^\]\n]+)", markdown)
    licence = found[1].strip() if found else ""
    pages = re.sub(r"\n##\s*\n\* (License|Text|Illustration).*", "", markdown, flags=re.DOTALL)
    pages = re.sub(r"\n\* (License|Text|Illustration|Translation|Language).*", "", pages)
    title = re.match(r"#\s*(.+)\n", pages)
    paragraphs = [title[1].strip()] if title else []
    for page in re.split(r"\n##\s*(?:\n|$)", "\n" + (pages[title.end() :] if title else pages)):
        paragraphs += [join_lines(paragraph) for paragraph in re.split(r"\n\s*\n", page.strip())]
    return "\n\n".join(filter(None, paragraphs)), licence


def simple_stories(store: Store) -> Documents:
    kept = Documents(near=True)
    for sample in STORY_SAMPLES:
        before = len(kept.texts)
        for _, raw in store.files(sample.repository, "", {sample.path}.__contains__):
            first = 1 if sample.starts_inside_a_story else 0
            for story in split_stories(raw.decode("utf-8", "replace"))[first:-1]:
                kept.add(tidy(story), SHORTEST_STORY)
        progress(f"  {sample.repository.name}: {len(kept.texts) - before} documents")
    for repository in PICTURE_BOOKS:
        before, restricted = len(kept.texts), 0
        for _, raw in store.files(repository, "en", lambda path: not path.endswith("README.md")):
            text, licence = picture_book(raw.decode("utf-8", "replace"))
            if is_free(licence):
                kept.add(tidy(text), SHORTEST_STORY)
            else:
                restricted += 1
        progress(
            f"  {repository.name}: {len(kept.texts) - before} documents, {restricted} left out for their licence"
        )
    return kept


# ---------------------------------------------------------------- tales

FRONT_AND_BACK_MATTER = re.compile(
    r"colophon|imprint|halftitle|titlepage|uncopyright|endnotes|dedication|loi|preface|foreword|introduction|epigraph"
)
EDITORIAL = re.compile(r"(?i)gutenberg|transcriber|e-?text|produced by|copyright|longmans")
EDITORIAL_HEADING = re.compile(r"(?i)\bcontents\b|\bpreface\b|\bindex\b|\bnotes\b|illustrations")
HEADING_CHARACTERS = 60
SHORTEST_CHAPTER = 400
SHORTEST_TALE = 600
SHORTEST_TALE_BODY = 900
LONGEST_TALE = 60_000
CUT_AFTER = 15_000
SMALLEST_LETTER_SHARE = 0.72


def is_chapter(path: str) -> bool:
    return not FRONT_AND_BACK_MATTER.match(PurePosixPath(path).name)


def xhtml_text(markup: str) -> str:
    """Running text of a Standard Ebooks chapter, without its number, figures and note references."""
    body = re.search(r"<body.*?</body>", markup, flags=re.DOTALL)
    text = body[0] if body else markup
    text = re.sub(r'<a [^>]*epub:type="noteref"[^>]*>.*?</a>', "", text, flags=re.DOTALL)
    text = re.sub(r"<figure.*?</figure>|<header.*?</header>", "", text, flags=re.DOTALL)
    text = re.sub(r"<br\s*/>", "\n", text)
    text = re.sub(r"</(p|h\d|li|blockquote|tr|td|hgroup|section)>", "\n\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    text = tidy(re.sub(r"[ \t]*\n[ \t]*", "\n", text))
    return re.sub(r"^(?:chapter\s+)?[IVXLC]+\n+", "", text, flags=re.IGNORECASE).strip()


def gutenberg_body(text: str) -> str:
    """A book without the distributor's header and footer."""
    text = text.replace("\r\n", "\n")
    start = re.search(r"\*\*\*\s*START OF TH[^\n]*\n", text)
    text = text[start.end() :] if start else text
    for end in (r"\n[^\n]*\*\*\*\s*END OF TH", r"(?i)\nEnd of (the |this )?Project Gutenberg"):
        text = re.split(end, text, maxsplit=1)[0]
    return text


def chapters(text: str) -> Iterator[str]:
    """A plain-text book cut at its headings: short lines after a wide gap that do not end like a sentence."""
    text = re.sub(r"\[\d+\]|\(\d+\)|\[Footnote[^\]]*\]|\[Illustration[^\]]*\]|_", "", text)
    pieces = re.split(r"\n(\s*)\n", text)
    heading, body = "", []
    for paragraph, gap in zip(map(join_lines, pieces[::2]), ["\n", *pieces[1::2]], strict=True):
        short = len(paragraph) < 90 and not re.search(r"[.,;:\"'!?\u201d]$", paragraph)
        if short and gap and re.search(r"[A-Za-z]{3}", paragraph):
            yield from chapter(heading, body)
            heading, body = (paragraph.title() if paragraph.isupper() else paragraph), []
        elif paragraph:
            body.append(paragraph)
    yield from chapter(heading, body)


def chapter(heading: str, body: list[str]) -> Iterator[str]:
    """The chapter if it is a tale: not too short, not a list or table, not about the edition."""
    text = "\n\n".join(body)
    if len(text) <= SHORTEST_TALE_BODY:
        return
    text = f"{heading}\n\n{text}" if heading else text
    if EDITORIAL.search(text) or EDITORIAL_HEADING.search(text[:HEADING_CHARACTERS]):
        return
    if sum(map(str.isalpha, text)) < SMALLEST_LETTER_SHARE * len(text):
        return
    yield from [text] if len(text) <= LONGEST_TALE else cut(text)


def cut(text: str) -> Iterator[str]:
    """Parts of a text in which no headings were found, each ending with a paragraph."""
    part = ""
    for paragraph in text.split("\n\n"):
        part += paragraph + "\n\n"
        if len(part) > CUT_AFTER:
            yield part.strip()
            part = ""
    if len(part) > SHORTEST_TALE_BODY:
        yield part.strip()


def tales(store: Store) -> Documents:
    kept = Documents(near=True)
    for name, commit in STANDARD_EBOOKS.items():
        before, repository = len(kept.texts), Repository(f"standardebooks/{name}", commit, CC0)

        for _, raw in store.files(repository, "src/epub/text", is_chapter):
            kept.add(xhtml_text(raw.decode("utf-8", "replace")), SHORTEST_CHAPTER)
        progress(f"  {repository.name}: {len(kept.texts) - before} documents")
    for name, commit in GITENBERG.items():
        before, repository = len(kept.texts), Repository(f"GITenberg/{name}", commit, PUBLIC_DOMAIN)
        number = name.rsplit("_", 1)[1]
        # The best encoded version first; the others hold the same book.
        encodings = {f"{number}-0.txt": "utf-8", f"{number}.txt": "latin-1", f"{number}-8.txt": "latin-1"}
        versions = dict(store.files(repository, "", encodings.__contains__))
        for path in [path for path in encodings if path in versions][:1]:
            for text in chapters(gutenberg_body(versions[path].decode(encodings[path], "replace"))):
                kept.add(tidy(text), SHORTEST_TALE)
        progress(f"  {repository.name}: {len(kept.texts) - before} documents")
    return kept


# ---------------------------------------------------------------- Japanese

# Characters of the orthography before 1946: another spelling of the same language, too much for a tiny model.
OLD_ORTHOGRAPHY = re.compile("[ゐゑヰヱ國學會體氣實當變讀寫來黑數聲醫圖經榮點佛澤龍]")
LARGEST_OLD_SHARE = 0.001
SMALLEST_KANA_SHARE = 0.5
SHORTEST_JAPANESE = 300
LICENCE_NOTE_CHARACTERS = 1500


def aozora_text(raw: bytes) -> tuple[str, str] | None:
    """Title and text of an Aozora Bunko file without ruby and annotations, or nothing if it does not fit."""
    text = raw.decode("cp932", "ignore").replace("\r\n", "\n")
    note = text[-LICENCE_NOTE_CHARACTERS:]
    if "クリエイティブ" in note or "Creative" in note:
        return None
    title = re.sub(r"《[^》]*》", "", text.split("\n", 1)[0].strip())
    # Header, legend of the annotations and text are set off by lines of hyphens; the source is named at the end.
    parts = re.split(r"\n-{20,}\n", text)
    body = re.split(r"\n底本[：:]", parts[2] if len(parts) >= 3 else text)[0]
    body = re.sub(r"《[^》]*》|※?［＃[^］]*］", "", body)
    body = re.sub(r"\n{2,}", "\n", re.sub("[｜\u3000〔〕]", "", body)).strip()
    if len(body) < SHORTEST_JAPANESE or len(OLD_ORTHOGRAPHY.findall(body)) > LARGEST_OLD_SHARE * len(body):
        return None
    if len(re.findall("[ぁ-んァ-ン]", body)) < SMALLEST_KANA_SHARE * len(body):
        return None
    return title, body


def japanese(store: Store) -> Documents:
    kept = Documents()
    for card, author in AOZORA_AUTHORS.items():
        before, titles = len(kept.texts), set()
        for _, raw in sorted(store.files(AOZORA, f"cards/{card}", lambda path: True)):
            found = aozora_text(raw)
            # One version of a title: the others differ in spelling only, which no comparison of words shows.
            if found and found[0] not in titles:
                titles.add(found[0])
                kept.add("\n".join(found), SHORTEST_JAPANESE)
        progress(f"  {author}: {len(kept.texts) - before} documents")
    return kept


# ---------------------------------------------------------------- Python

NOT_LIBRARY_CODE = {
    "site-packages", "dist-packages", "lib2to3", "idlelib", "turtledemo", "pydoc_data", "encodings", "ensurepip",
}  # fmt: skip
SHORTEST_MODULE = 400
LONG_LINE = 120
MOST_LONG_LINES = 5


def is_library_module(path: PurePosixPath) -> bool:
    """Whether a file is code written to be read: no tests, tables, installed packages or build settings."""
    if path.parts[0] in NOT_LIBRARY_CODE or path.name.startswith("_sysconfigdata"):
        return False
    return not any(part.startswith("test") for part in path.parts)


def python(_store: Store) -> Documents:
    kept = Documents()
    root = Path(sysconfig.get_paths()["stdlib"])
    if sys.version_info[:2] != (3, 11):
        progress(f"warning: this is the library of Python {sys.version.split()[0]}; the model saw that of 3.11")
    for path in sorted(root.rglob("*.py"), key=str):
        if not is_library_module(PurePosixPath(path.relative_to(root).as_posix())):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (OSError, SyntaxError, ValueError):
            continue
        if sum(len(line) > LONG_LINE for line in text.split("\n")) <= MOST_LONG_LINES:
            kept.add(text.replace("\t", "    ").strip(), SHORTEST_MODULE)
    progress(f"  {root}: {len(kept.texts)} documents")
    return kept


# ---------------------------------------------------------------- command line

FILES: dict[str, Callable[[Store], Documents]] = {
    "simple_stories": simple_stories,
    "tales": tales,
    "python": python,
    "japanese": japanese,
}


def file_names(value: str) -> list[str]:
    names = value.split(",")
    for name in names:
        if name not in FILES:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(FILES)}, got `{name}`")
    return names


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="CORPUS", help="folder to write to")
    add("--mirror", type=Path, metavar="DIR", help="folder of clones to read instead of GitHub")
    add("--only", type=file_names, default=list(FILES), metavar="NAMES", help=f"some of {','.join(FILES)}")
    add("--allow-missing", action="store_true", help="go on without repositories that cannot be had")
    return parser.parse_args()


def collect(names: list[str], out: Path, store: Store) -> None:
    if names != ["python"] and not shutil.which("git"):
        raise CollectError("`git` is not installed", "install it, or choose --only python, which needs none")
    if store.mirror and not store.mirror.is_dir():
        raise CollectError(f"the mirror `{store.mirror}` is not a folder", "leave --mirror out to use GitHub")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        progress(f"{name}:")
        kept = FILES[name](store)
        size = kept.write(out / f"{name}.txt")
        print(
            f"{name}: {len(kept.texts)} documents, {kept.duplicates} duplicates dropped, "
            f"{kept.unwanted} left out for their wording, {size / 1e6:.2f} MB",
            flush=True,
        )


def main() -> None:
    args = arguments()
    try:
        collect(args.only, args.out, Store(args.out / ".repositories", args.mirror, args.allow_missing))
    except CollectError as error:
        raise SystemExit(f"error: {error}\n\nhint: {error.hint}") from None


if __name__ == "__main__":
    main()
