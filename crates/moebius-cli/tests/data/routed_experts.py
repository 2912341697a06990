"""Reads traces by docs/trace-format.md alone, and makes of one what SGLang and vLLM would have returned.

    respond TRACE DIR   writes responses in several forms and prints their paths
    digest TRACE        prints the experts of every token
"""
import base64
import json
import struct
import sys


def read(path):
    data = open(path, "rb").read()
    magic, version, size = struct.unpack_from("<8sII", data)
    assert (magic, version) == (b"moetrace", 1), (magic, version)
    header = json.loads(data[16:16 + size])
    assert header["kind"] == "tokens"
    layers = header["layers"]
    width, code = (1, "B") if all(layer["experts"] <= 255 for layer in layers) else (2, "H")
    record = "<3I" + ("I" if header["token_ids"] else "")
    for layer in layers:
        record += f"{layer['k']}{code}" + (f"{layer['k']}f" if header["weights"] else "")
    tokens = []
    for start in range(16 + size, len(data) - struct.calcsize(record) + 1, struct.calcsize(record)):
        fields = list(struct.unpack_from(record, data, start))
        step, sequence, position = fields[:3]
        at = 4 if header["token_ids"] else 3
        token, routes = fields[3] if header["token_ids"] else None, []
        for layer in layers:
            routes.append([i for i in fields[at:at + layer["k"]] if i != 256 ** width - 1])
            at += layer["k"] * (2 if header["weights"] else 1)
        tokens.append((sequence, position, token, routes))
    return tokens


def npy(values, code, shape):
    head = str({"descr": {"i": "<i4", "h": "<i2", "B": "|u1"}[code], "fortran_order": False, "shape": shape})
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + struct.pack(f"<{len(values)}{code}", *values)


def respond(tokens, out):
    # The engines name experts by weight, not by id.
    arrays = [[layer[::-1] for layer in routes] for _, _, _, routes in tokens]
    ids = [token for _, _, token, _ in tokens]
    flat = [i for routes in arrays for layer in routes for i in layer]
    shape = (len(arrays), len(arrays[0]), len(arrays[0][0]))
    text = lambda raw: base64.b64encode(raw).decode()
    int32 = text(struct.pack(f"<{len(flat)}i", *flat))
    half = len(arrays) // 2
    prompt, rest = ids[:half], ids[half:] + [0]  # the last token is never routed
    forms = {
        "sglang.json": {"text": "", "meta_info": {"routed_experts": int32, "prompt_tokens": half}},
        "sglang_ids.json": {
            "output_ids": rest,
            "meta_info": {"routed_experts": int32, "input_token_logprobs": [[None, i, None] for i in prompt]},
        },
        "sglang_openai.json": {"choices": [{"text": ""}], "sglext": {"routed_experts": int32}},
        "vllm_ids.json": {
            "prompt_routed_experts": arrays[:half],
            "prompt_token_ids": prompt,
            "choices": [{"token_ids": rest, "routed_experts": arrays[half:]}],
        },
        "vllm_npy.json": {"choices": [{"routed_experts": text(npy(flat, "h", shape))}], "prompt_routed_experts": None},
        "lists.json": arrays,
    }
    for name, form in forms.items():
        with open(f"{out}/{name}", "w") as file:
            json.dump(form, file)
        print(f"{out}/{name}")
    for name, code in (("int32.npy", "i"), ("bytes.npy", "B")):
        with open(f"{out}/{name}", "wb") as file:
            file.write(npy(flat, code, shape))
        print(f"{out}/{name}")


if sys.argv[1] == "respond":
    respond(read(sys.argv[2]), sys.argv[3])
else:
    print([(sequence, position, routes) for sequence, position, _, routes in read(sys.argv[2])])
