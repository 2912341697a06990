"""Writes a trained model as a Hugging Face `qwen3_moe` directory that transformers and moebius load unchanged, and
reads it back."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from data import END_OF_TEXT
from model import Model, Shape


def views(model: Model) -> dict[str, torch.Tensor]:
    """The model's own weights, in part views of its stacks, under the names of transformers' Qwen3MoeForCausalLM."""
    named = {"model.embed_tokens": model.embedding.weight, "model.norm": model.norm.weight}
    for i, block in enumerate(model.blocks):
        attention, feed_forward = block.attention, block.feed_forward
        layer = {
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.feed_forward_norm.weight,
            "self_attn.q_norm": attention.q_norm.weight,
            "self_attn.k_norm": attention.k_norm.weight,
            "mlp.gate": feed_forward.router.weight,
        }
        layer |= {f"self_attn.{n}_proj": getattr(attention, n).weight for n in "qkvo"}
        for e, (gate_up, down) in enumerate(zip(feed_forward.experts.gate_up, feed_forward.experts.down)):
            gate, up = gate_up.chunk(2, 0)
            layer |= {
                f"mlp.experts.{e}.gate_proj": gate,
                f"mlp.experts.{e}.up_proj": up,
                f"mlp.experts.{e}.down_proj": down,
            }
        named |= {f"model.layers.{i}.{name}": weight for name, weight in layer.items()}
    return {f"{name}.weight": weight.detach() for name, weight in named.items()}


def tensors(model: Model) -> dict[str, torch.Tensor]:
    """What is written: `views` in bf16."""
    return {name: view.to("cpu", torch.bfloat16).contiguous().clone() for name, view in views(model).items()}


def config(shape: Shape) -> dict:
    return dict(
        architectures=["Qwen3MoeForCausalLM"],
        model_type="qwen3_moe",
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn * shape.top_k,
        moe_intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden_act="silu",
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps,
        rope_theta=shape.rope_theta,
        rope_scaling=None,
        tie_word_embeddings=True,
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        router_aux_loss_coef=0.01,
        output_router_logits=False,
        attention_bias=False,
        attention_dropout=0.0,
        use_sliding_window=False,
        sliding_window=None,
        max_window_layers=shape.layers,
        initializer_range=0.02,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        torch_dtype="bfloat16",
    )


GENERATION = dict(eos_token_id=0, pad_token_id=0, do_sample=True, temperature=0.7, top_p=0.9, max_new_tokens=200)


def export(model: Model, tokenizer: Path, out: Path) -> None:
    """Writes weights (bf16), configuration and tokenizer; other files of the directory stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    about_tokenizer = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        bos_token=None,
        unk_token=None,
        model_max_length=model.shape.context,
        clean_up_tokenization_spaces=False,
    )
    for name, content in (
        ("config", config(model.shape)),
        ("generation_config", GENERATION),
        ("tokenizer_config", about_tokenizer),
    ):
        (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def read(directory: Path) -> Model:
    """The recipe's own model, in float32, with the weights that `export` wrote."""
    c = json.loads((directory / "config.json").read_text())
    shape = Shape(
        vocab=c["vocab_size"],
        hidden=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        head_dim=c["head_dim"],
        experts=c["num_experts"],
        top_k=c["num_experts_per_tok"],
        ffn=c["moe_intermediate_size"],
        context=c["max_position_embeddings"],
        rope_theta=c["rope_theta"],
        eps=c["rms_norm_eps"],
    )
    model = Model(shape)
    stored = load_file(directory / "model.safetensors")
    for name, view in views(model).items():
        view.copy_(stored.pop(name))
    if stored:
        raise ValueError(f"tensors that the model has no place for: {', '.join(sorted(stored))}")
    return model
