"""Writes a GGUF file of random weights in the shape of a config.json and in the format that `moebius bench` would hold.

The weights' root mean square is about 0.02, so that logits stay finite. Attention adds little to what a layer gets, and
the embedding is far larger than what the experts add: tokens keep their own direction through the layers, and the
router spreads them over the experts as chance would. Were attention's output as large as the rest, then what tokens
have in common would grow from layer to layer, and in a deep model all would choose the same experts.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from formats import FORMATS, MIXES, Format, blocks, held

if TYPE_CHECKING:
    import gguf

SHAPES = Path(__file__).resolve().parents[2] / "crates" / "moebius" / "shapes"
ARCHITECTURES = {"granitemoe": "granitemoe", "mixtral": "llama", "olmoe": "olmoe", "qwen3_moe": "qwen3moe"}
"""What a `model_type` is called in GGUF."""
WEIGHT_RMS = 0.02
EMBEDDING_RMS = 1.5
ATTENTION_OUTPUT_RMS = WEIGHT_RMS / 16


class ModelError(Exception):
    """A shape or a format that cannot be written."""


# ---------------------------------------------------------------- shapes


@dataclass(frozen=True)
class Shape:
    """What of a config.json decides the tensors."""

    name: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    ffn: int
    vocab: int
    tied: bool
    config: dict

    def title(self) -> str:
        return f"{self.name}:{self.layers}L"


def shape(name: str, layers: int | None = None) -> Shape:
    """The shape called `name`, or that of a config.json, with `layers` in place of its own number."""
    path = SHAPES / f"{name}.json"
    if not path.is_file():
        path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in SHAPES.glob("*.json")))
            raise ModelError(f"unknown shape `{name}`: expected one of {known}, or the path of a config.json")
        name = path.resolve().parent.name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
        if kind not in ARCHITECTURES:
            known = ", ".join(sorted(ARCHITECTURES))
            raise ModelError(f"`{name}` is of family `{kind}`: expected one of {known}")
        heads = config["num_attention_heads"]
        return Shape(
            name=name,
            model_type=kind,
            layers=layers or config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            experts=config["num_experts"] if "num_experts" in config else config["num_local_experts"],
            top_k=config["num_experts_per_tok"],
            ffn=config["moe_intermediate_size"] if kind == "qwen3_moe" else config["intermediate_size"],
            vocab=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            config=config,
        )
    except (KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"`{path}` is not a config.json of a known family: {error}") from error


def stand_in(of: Shape) -> Shape:
    """The shape in the family of the same matrices that more programs know.

    For `olmoe` that is `qwen3_moe`: queries and keys are then normalised by head and not together, and the weights of
    the chosen experts are brought to a sum of one, which next to the matrices is no work.
    """
    return replace(of, model_type="qwen3_moe") if of.model_type == "olmoe" else of


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file; `dims` are outermost first."""

    name: str
    dims: tuple[int, ...]
    format: Format
    rms: float | None
    """None is all ones."""

    def bytes(self) -> int:
        return self.format.bytes(int(np.prod(self.dims, dtype=np.int64)))


def tensors(of: Shape, choice: str) -> Iterator[Tensor]:
    """The tensors of a shape in file order."""

    def matrix(name: str, place: str, *dims: int, rms: float = WEIGHT_RMS) -> Tensor:
        return Tensor(f"{name}.weight", dims, held(choice, place, dims[-1]), rms)

    def norm(name: str, width: int) -> Tensor:
        return Tensor(f"{name}.weight", (width,), FORMATS["f32"], None)

    queries, keys = of.heads * of.head_dim, of.kv_heads * of.head_dim
    yield matrix("token_embd", "head", of.vocab, of.hidden, rms=EMBEDDING_RMS)
    yield norm("output_norm", of.hidden)
    if not of.tied:
        yield matrix("output", "head", of.vocab, of.hidden)
    for layer in range(of.layers):
        at = f"blk.{layer}."
        yield norm(at + "attn_norm", of.hidden)
        yield matrix(at + "attn_q", "attention", queries, of.hidden)
        yield matrix(at + "attn_k", "attention", keys, of.hidden)
        yield matrix(at + "attn_v", "attention", keys, of.hidden)
        yield matrix(at + "attn_output", "attention", of.hidden, queries, rms=ATTENTION_OUTPUT_RMS)
        # OLMoE normalises all heads together, Qwen3 each by itself.
        widths = {"olmoe": (queries, keys), "qwen3_moe": (of.head_dim, of.head_dim)}.get(of.model_type)
        if widths is not None:
            yield norm(at + "attn_q_norm", widths[0])
            yield norm(at + "attn_k_norm", widths[1])
        yield norm(at + "ffn_norm", of.hidden)
        yield matrix(at + "ffn_gate_inp", "router", of.experts, of.hidden)
        yield matrix(at + "ffn_gate_exps", "experts", of.experts, of.ffn, of.hidden)
        yield matrix(at + "ffn_up_exps", "experts", of.experts, of.ffn, of.hidden)
        yield matrix(at + "ffn_down_exps", "experts", of.experts, of.hidden, of.ffn)


def weight_bytes(of: Shape, choice: str) -> int:
    """Bytes of all tensors; the file adds less than ten megabytes."""
    return sum(tensor.bytes() for tensor in tensors(of, choice))


# ---------------------------------------------------------------- files


def filled(tensor: Tensor, random: np.random.Generator) -> np.ndarray:
    """The bytes of a tensor, made up a slab at a time so that little more than the tensor is in memory."""
    if tensor.rms is None:
        return np.ones(tensor.dims, "<f4")
    slabs = tensor.dims[0]
    slab_blocks = int(np.prod(tensor.dims[1:], dtype=np.int64)) // tensor.format.block_len
    step = max(1, (1 << 18) // slab_blocks)
    out = np.empty((slabs, slab_blocks * tensor.format.block_bytes), np.uint8)
    for first in range(0, slabs, step):
        rows = out[first : first + step]
        rows[:] = blocks(tensor.format, len(rows) * slab_blocks, tensor.rms, random).reshape(rows.shape)
    return out


def write(path: Path, of: Shape, choice: str, seed: int = 0) -> None:
    """Writes the file. The same arguments give the same bytes."""
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURES[of.model_type])
    describe(writer, of)
    plan = list(tensors(of, choice))
    writer.add_file_type(FORMATS[MIXES.get(choice, choice)].file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in plan:
        width = (tensor.format.bytes(tensor.dims[-1]),)
        kind = gguf.GGMLQuantizationType(tensor.format.ggml_type)
        writer.add_tensor_info(tensor.name, tensor.dims[:-1] + width, np.dtype(np.uint8), tensor.bytes(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.Generator(np.random.SFC64(seed))
    for tensor in plan:
        writer.write_tensor_data(filled(tensor, random))
    writer.close()


def describe(writer: "gguf.GGUFWriter", of: Shape) -> None:
    """Adds what the file says of the model beside its tensors."""
    config = of.config
    writer.add_name(of.title())
    writer.add_block_count(of.layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(of.hidden)
    writer.add_feed_forward_length(of.ffn)
    writer.add_head_count(of.heads)
    writer.add_head_count_kv(of.kv_heads)
    writer.add_key_length(of.head_dim)
    writer.add_value_length(of.head_dim)
    writer.add_rope_dimension_count(of.head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(of.experts)
    writer.add_expert_used_count(of.top_k)
    writer.add_vocab_size(of.vocab)
    if of.model_type == "qwen3_moe":
        writer.add_expert_feed_forward_length(of.ffn)
    if of.model_type == "granitemoe":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
        # Not `residual_multiplier`: ik_llama.cpp scales by this what a layer gets as well as what it adds, and tokens
        # would lose the direction that spreads them over the experts. By one it scales too, to no effect.
        writer.add_residual_scale(1.0)
    # llama.cpp wants a tokenizer in every file. This one is never asked: token ids are made up.
    words = [f"<{index}>" for index in range(of.vocab)]
    words[:4] = ["a", "b", "ab", "\u010a"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([1] * of.vocab)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(4)
    writer.add_eos_token_id(4)
