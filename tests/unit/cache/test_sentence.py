"""Sentence encoders: the graph against a slow BERT in NumPy, MiniLM against its own page, and bad folders."""

import json
import math

import numpy as np
import pytest
from tests.minilm import minilm_folder
from tests.tiny_bert import make_folder, words

from engine.cache import EmbeddingCache, SentenceEncoder
from engine.cache.sentence import _parts
from engine.errors import ConfigError, ModelFormatError, UnsupportedModelError

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


def layer_norm(states, weights, name, epsilon):
    mean = states.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(((states - mean) ** 2).mean(axis=-1, keepdims=True) + epsilon)
    return (states - mean) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(states, weights, name):
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def slow_bert(ids, weights, config):
    """One text at a time, in double, from the formulas of Devlin et al. (2018)."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size, epsilon = hidden // heads, config["layer_norm_eps"]
    states = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    states = layer_norm(states, weights, "embeddings.LayerNorm", epsilon)
    for number in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{number}."
        query, key, value = (
            linear(states, weights, f"{name}attention.self.{part}") for part in ("query", "key", "value")
        )
        mixed = np.empty_like(states)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, part] = scores / scores.sum(axis=-1, keepdims=True) @ value[:, part]
        mixed = linear(mixed, weights, f"{name}attention.output.dense") + states
        states = layer_norm(mixed, weights, f"{name}attention.output.LayerNorm", epsilon)
        wide = linear(states, weights, f"{name}intermediate.dense")
        wide = wide * 0.5 * (1.0 + np.vectorize(math.erf)(wide / math.sqrt(2.0)))
        mixed = linear(wide, weights, f"{name}output.dense") + states
        states = layer_norm(mixed, weights, f"{name}output.LayerNorm", epsilon)
    return states


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_graph_computes_a_bert(tmp_path, pooling, normalize):
    config, weights = make_folder(tmp_path, pooling=pooling, normalize=normalize)
    encoder = SentenceEncoder(tmp_path)
    texts = ["w1", "w2 w3 w4 w5 w6 w7", "", "w1 w1 w9", "nothing known", " ".join(words(60))]
    made = encoder.encode(texts)
    assert made.shape == (6, 16)
    for text, vector in zip(texts, made, strict=True):
        states = slow_bert(encoder.tokenizer.encode(text).ids, weights, config)
        expected = states.mean(axis=0) if pooling == "mean" else states[0]
        expected = expected / np.linalg.norm(expected) if normalize else expected
        assert np.allclose(vector, expected, atol=2e-5), text


def test_a_text_has_one_embedding_whatever_it_is_batched_with(tmp_path):
    make_folder(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    texts = [" ".join(words(count)) for count in (1, 2, 5, 9, 14)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.allclose(encoder.encode(texts[::-1])[::-1], alone, atol=1e-5)


def test_a_long_text_is_cut(tmp_path):
    make_folder(tmp_path)
    encoder = SentenceEncoder(tmp_path, tokens_max=6)
    assert encoder.rows(["w1 w2 w3 w4 w5 w6 w7", "w1"]).tolist() == [
        [2.0, 5.0, 6.0, 7.0, 8.0, 3.0],
        [2.0, 5.0, 3.0, -1.0, -1.0, -1.0],
    ]
    assert np.array_equal(encoder.encode(["w1 w2 w3 w4 w5 w6"]), encoder.encode(["w1 w2 w3 w4"]))
    assert encoder.space != SentenceEncoder(tmp_path).space


def test_equal_folders_have_one_space_and_others_another(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        make_folder(tmp_path / name, seed=0 if name != "c" else 1)
    spaces = [SentenceEncoder(tmp_path / name).space for name in ("a", "b", "c")]
    assert spaces[0] == spaces[1] != spaces[2]


def test_bytes_are_texts_in_utf8(tmp_path):
    make_folder(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    assert np.array_equal(encoder.encode([b"w1 w2"]), encoder.encode(["w1 w2"]))


def test_texts_of_similar_lengths_go_together():
    assert _parts(np.array([3, 4, 6, 7, 14, 15, 100])) == [slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 7)]
    assert _parts(np.array([5])) == [slice(0, 1)]


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("config.json", {"model_type": "roberta"}, UnsupportedModelError, "expected a BERT"),
        (
            "config.json",
            {"position_embedding_type": "relative_key"},
            UnsupportedModelError,
            "expected a BERT",
        ),
        ("config.json", {"hidden_act": "relu"}, UnsupportedModelError, "expected the activation gelu"),
        ("config.json", {"hidden_size": "many"}, ModelFormatError, "a field is missing or no number"),
        ("config.json", {"num_hidden_layers": 3}, ModelFormatError, "the weights lack 'encoder.layer.2"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True},
            UnsupportedModelError,
            "expected pooling by mean",
        ),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, file, change, error, message):
    make_folder(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        SentenceEncoder(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(ConfigError, match="tokens_max must be an int from 2"):
        SentenceEncoder(tmp_path, tokens_max=1)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        SentenceEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFormatError, match="expected JSON"):
        SentenceEncoder(tmp_path)
    with pytest.raises(FileNotFoundError):
        SentenceEncoder(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder(minilm_folder())


@pytest.mark.slow
def test_minilm_tells_what_texts_mean(minilm):
    texts = [
        "That is a happy person",
        "That is a very happy person",
        "That is a happy dog",
        "Today is a sunny day",
    ]
    vectors = minilm.encode(texts)
    assert vectors.shape == (4, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    # As on the model's page.
    assert np.allclose(vectors[0] @ vectors[1:].T, [0.943, 0.695, 0.257], atol=2e-3)


@pytest.mark.slow
def test_minilm_is_cached(minilm):
    with EmbeddingCache(minilm, 1 << 20, deadline_ms=60_000.0) as cache:
        assert cache.wait_ready(60.0)
        first, second = cache.embed("a question"), cache.embed("a question")
    assert (first.origin, second.origin) == ("computed", "memory")
    assert np.allclose(first.value, minilm.encode(["a question"])[0], atol=1e-6)
