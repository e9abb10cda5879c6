"""A folder of sentence-transformers with a tiny BERT of random weights, for tests that need no real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS, HIDDEN, WIDE, HEADS, LAYERS, TOKENS_MAX = 40, 16, 32, 4, 2, 24


def words(count: int) -> list[str]:
    """Words that the tokenizer knows, from w1 on, each a token."""
    return [f"w{number % WORDS + 1}" for number in range(count)]


def make_folder(
    folder: Path, *, pooling: str = "mean", normalize: bool = True, seed: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Write the folder. Returns its configuration and its weights, in double."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate([*MARKS, *words(WORDS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "hidden_size": HIDDEN, "layer_norm_eps": 1e-12, "max_position_embeddings": TOKENS_MAX,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
        )
    )
    if normalize:
        kinds = ["Transformer", "Pooling", "Normalize"]
        (folder / "modules.json").write_text(
            json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in kinds])
        )
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(vocabulary), HIDDEN),
        "embeddings.position_embeddings.weight": (TOKENS_MAX, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    linears = {"embeddings.LayerNorm": ()}
    for number in range(LAYERS):
        name = f"encoder.layer.{number}."
        linears |= {f"{name}attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears |= {
            f"{name}attention.output.dense": (HIDDEN, HIDDEN),
            f"{name}attention.output.LayerNorm": (),
            f"{name}intermediate.dense": (WIDE, HIDDEN),
            f"{name}output.dense": (HIDDEN, WIDE),
            f"{name}output.LayerNorm": (),
        }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape or (HIDDEN,), f"{name}.bias": (shape[0] if shape else HIDDEN,)}
    weights = {name: rng.normal(scale=0.4, size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith("LayerNorm.weight"):
            weights[name] += 1.0
    save_file(weights, str(folder / "model.safetensors"))
    return config, {name: value.astype(np.float64) for name, value in weights.items()}
