#!/usr/bin/env python3
"""Write what llama.cpp makes of texts under each name of a pre-tokenizer: `vocabulary.py OUT.json`.

One vocabulary of byte-level BPE, merged over all borders of words in the texts themselves, so that wherever a pattern cuts
other tokens come out. For each name llama.cpp reads a GGUF file with it, written by the package `gguf`, and the ids are
noted. A vocabulary with scores (SentencePiece) and one of Gemma 4 have texts of their own.
"""
import ctypes
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import gguf
import llama_cpp

NAMES = [
    "default", "gpt-2", "olmo", "refact", "starcoder", "command-r", "smollm", "llama-bpe", "lfm2", "pixtral", "falcon-h1",
    "tekken", "dbrx", "chatglm-bpe", "glm4", "qwen2", "qwen35", "stablelm2", "hunyuan", "hunyuan-dense", "bailingmoe",
    "bailingmoe2", "gpt-4o", "llama4", "minimax-m2", "deepseek-llm", "deepseek-coder", "deepseek-v3", "joyai-llm", "afmoe",
    "kimi-k2",
]
TEXTS = [
    "Hello, world! It's 2024; we've paid $1234567.89 for 12 or 3456 of them.",
    "I'LL SAY: DON'T! they'd, WE'RE, o'clock 'tis",
    "def f(x):\n\treturn x**2  # (a+b)!=c\n\n\n    if not y:\r\n        pass   ",
    "CamelCase HTTPServer ünïcödé ÀÉÎ naïve Straße ΑΒΓ αβγ привет МИР",
    "中文字符和English混排，标点。「こんにちは」カタカナ 한국어 ไทย",
    "a  b   c\t\td \n e\n\nf \r\n g",
    "e\u0301 n\u0303 हिन्दी",
    "½ ² Ⅷ ١٢٣ 𝔘𝔫𝔦 🙂👍🏽 <tag attr=\"v\"/> `code` ~x^y|z\\",
    "100 1000 10000 100000 1000000 x1y22z333 v1.2.3",
    "<|turn|>system<|end_of_turn|> <user> kept </user>",
    "",
    " ",
    "\n",
]
WHOLE = [" world", "naïve", " Straße", "\u043f\u0440\u0438\u0432\u0435\u0442"]
"""Words that are tokens although no merges make them."""
MERGES = 420
CONTROL, USER_DEFINED, NORMAL, UNKNOWN, BYTE = 3, 4, 1, 2, 6


def letters():
    """The letters that stand for bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def trained(sequences, count):
    """The most frequent pairs, merged one after another; of equally frequent ones the first by letters."""
    merges = []
    while len(merges) < count:
        pairs = Counter(pair for sequence in sequences for pair in zip(sequence, sequence[1:]))
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((left, right))
        for sequence in sequences:
            at = 0
            while at + 1 < len(sequence):
                if (sequence[at], sequence[at + 1]) == (left, right):
                    sequence[at:at + 2] = [left + right]
                at += 1
    return merges


def written(path, model, pre, tokens, types, merges=None, scores=None, **special):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if merges:
        w.add_token_merges([f"{left} {right}" for left, right in merges])
    if scores:
        w.add_token_scores(scores)
    for name, value in special.items():
        getattr(w, f"add_{name}")(value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def tokenized(path):
    """Ids of the texts with special tokens around them, the id that begins and the one that ends, and those that stop."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)
    ids = []
    for text in TEXTS:
        data = text.encode()
        room = (llama_cpp.llama_token * (4 * len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), True, True)
        assert count >= 0, text
        ids.append(list(room[:count]))
    stops = [id for id in range(llama_cpp.llama_vocab_n_tokens(vocab)) if llama_cpp.llama_vocab_is_eog(vocab, id)]
    llama_cpp.llama_model_free(model)
    return {"ids": ids, "stops": stops}


def byte_level(path):
    alphabet = letters()
    spelled = [[alphabet[byte] for byte in text.encode()] for text in TEXTS if "<|" not in text]
    merges = trained(spelled, MERGES)
    tokens = alphabet + [left + right for left, right in merges]
    tokens = list(dict.fromkeys(tokens))
    for word in WHOLE:
        spelled = "".join(alphabet[byte] for byte in word.encode())
        assert spelled not in tokens, word
        tokens.append(spelled)
    types = [NORMAL] * len(tokens)
    for text, kind in [("<|turn|>", CONTROL), ("<|end_of_turn|>", CONTROL), ("<user>", USER_DEFINED)]:
        tokens.append(text)
        types.append(kind)
    bos, eos = tokens.index("<|turn|>"), tokens.index("<|end_of_turn|>")
    ways, names = [], {}
    for name in NAMES:
        written(path, "gpt2", name, tokens, types, merges, bos_token_id=bos, eos_token_id=eos)
        ids = tokenized(path)["ids"]
        if ids not in ways:
            ways.append(ids)
        names.setdefault(ways.index(ids), []).append(name)
    ways = [{"names": names[index], "ids": ids} for index, ids in enumerate(ways)]
    return {"tokens": tokens, "types": types, "merges": merges, "bos": bos, "eos": eos, "ways": ways}


def with_spaces(text):
    return text.replace(" ", "▁")


def pieces(path):
    """Tokens for bytes, letters of the texts but the rare ones, and merges; as SentencePiece has them and as Gemma 4."""
    spelled = [list("▁" + with_spaces(text)) for text in TEXTS[:6]]
    seen = sorted({letter for word in spelled for letter in word})
    merges = [pair for pair in trained(spelled, 160) if "\n" not in "".join(pair)]
    tokens, types = ["<unk>", "<s>", "</s>"], [UNKNOWN, CONTROL, CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * 256
    for token in [left + right for left, right in merges] + seen:
        if token not in tokens:
            tokens.append(token)
            types.append(NORMAL)
    tokens += ["<user>", "<|turn|>", "<turn|>"]
    types += [USER_DEFINED, CONTROL, CONTROL]
    scores = [-float(max(0, index - 258)) for index in range(len(tokens))]
    base = {"tokens": tokens, "types": types}
    kinds = {
        "plain": {},
        "told": {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False, "add_eos_token": True},
        "without_prefix": {"add_space_prefix": False, "bos_token_id": tokens.index("<|turn|>")},
    }
    by_score = {}
    for kind, special in kinds.items():
        written(path, "llama", None, tokens, types, scores=scores, **special)
        by_score[kind] = {"keys": special, **tokenized(path)}
    special = {"bos_token_id": 1, "eos_token_id": tokens.index("<turn|>"), "add_bos_token": True}
    written(path, "gemma4", None, tokens, types, merges, **special)
    return {**base, "scores": scores, "merges": merges, "by_score": by_score, "gemma4": {"keys": special, **tokenized(path)}}


def quiet(level, text, data):
    if level >= 4:
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    log = llama_cpp.llama_log_callback(quiet)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vocabulary.gguf"
        all = {"texts": TEXTS, "byte_level": byte_level(path), "pieces": pieces(path)}
    Path(sys.argv[1]).write_text(json.dumps(all, ensure_ascii=False, separators=(",", ":")) + "\n")
