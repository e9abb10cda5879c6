"""Static encoders: distilled from an encoder without texts, saved, loaded, and another space than the encoder's."""

import os
import threading

import numpy as np
import pytest
from tests.minilm import minilm_folder
from tests.tiny_bert import make_folder, words

from engine.cache import EmbeddingCache, Encoder, SentenceEncoder, StaticEncoder
from engine.errors import ConfigError, InputTypeError, ModelFormatError

model2vec = pytest.importorskip("model2vec")
pytest.importorskip("onnxruntime")


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    make_folder(folder)
    return SentenceEncoder(folder)


def test_it_is_an_average_of_token_vectors(encoder):
    static = StaticEncoder.distilled(encoder, dimensions=8)
    assert static.dimensions == 8
    assert static.model.embedding.shape == (45, 8)
    assert static.model.embedding.dtype == np.float16
    table = static.model.embedding.astype(np.float32)
    mean = table[[5, 6, 7]].mean(axis=0)
    assert np.allclose(static.encode(["w1 w2 w3"])[0], mean / np.linalg.norm(mean), atol=1e-3)
    # No mark of begin or end, and no unknown word.
    assert np.allclose(static.encode(["w1 unknown w2 w3"]), static.encode(["w1 w2 w3"]), atol=1e-3)
    assert static.encode([""]).tolist() == [[0.0] * 8]


def test_token_vectors_are_the_encoders_principal_components(encoder):
    vectors = encoder.encode(words(40))  # tokens 5 to 44, each alone
    static = StaticEncoder.distilled(encoder, dimensions=16).model.embedding[5:].astype(np.float64)
    # All dimensions are kept, so distances stay, up to the weights of the tokens.
    share = 1.0 / np.arange(2, 47)
    weight = 1e-4 / (1e-4 + share / share.sum())
    restored = static / weight[5:, None]
    expected = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    assert np.allclose(np.linalg.norm(restored[:, None] - restored[None], axis=2), expected, atol=5e-3)


def test_equal_encoders_distil_to_equal_spaces_of_their_own(encoder):
    one, other = (
        StaticEncoder.distilled(encoder, dimensions=8),
        StaticEncoder.distilled(encoder, dimensions=8),
    )
    assert one.space == other.space
    assert one.space != encoder.space
    assert one.space != StaticEncoder.distilled(encoder, dimensions=4).space
    assert one.durable


def test_it_is_saved_and_loaded(encoder, tmp_path):
    static = StaticEncoder.distilled(encoder, dimensions=8)
    static.save(tmp_path / "static")
    loaded = StaticEncoder.load(tmp_path / "static")
    assert np.array_equal(loaded.encode(["w1 w9"]), static.encode(["w1 w9"]))
    assert loaded.space == static.space
    with pytest.raises(FileNotFoundError, match="no such folder"):
        StaticEncoder.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFormatError, match="holds no static model"):
        StaticEncoder.load(tmp_path / "empty")


def test_what_cannot_be_distilled_is_refused(encoder):
    with pytest.raises(InputTypeError, match="expected a SentenceEncoder"):
        StaticEncoder.distilled(Encoder(lambda texts: np.ones((len(texts), 2))))
    with pytest.raises(ConfigError, match="dimensions must be an int from 1 to 16"):
        StaticEncoder.distilled(encoder, dimensions=17)
    with pytest.raises(ConfigError, match="vocabulary_max must be an int from 1 to 45"):
        StaticEncoder.distilled(encoder, dimensions=4, vocabulary_max=46)
    with pytest.raises(InputTypeError, match=r"expected a model2vec\.StaticModel"):
        StaticEncoder("model")


def test_it_answers_what_the_encoder_does_not_embed_in_time(encoder):
    gate = threading.Event()
    static = StaticEncoder.distilled(encoder, dimensions=8)

    def slow(texts):
        if "w1 w2" in texts:
            gate.wait(60.0)
        return encoder.encode(texts)

    with EmbeddingCache(
        Encoder(slow, dimensions=16, digest="slow"), 1 << 20, fallback=static, deadline_ms=60_000.0
    ) as cache:
        assert cache.wait_ready(60.0)
        answer = cache.embed("w1 w2", deadline_ms=50.0)
        gate.set()
        assert (answer.source, answer.space) == ("fallback", static.space)
        assert np.array_equal(answer.value, static.encode(["w1 w2"])[0])
        assert cache.embed("w1 w2").source == "primary"


@pytest.mark.nightly
@pytest.mark.skipif(os.environ.get("ENGINE_NIGHTLY") != "1", reason="ENGINE_NIGHTLY=1 runs it: half a minute")
def test_a_static_minilm_keeps_texts_in_their_order(tmp_path):
    encoder = SentenceEncoder(minilm_folder())
    static = StaticEncoder.distilled(encoder)
    static.save(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 16_000_000
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The cat sat on the warm window."]
    for each in (encoder, static):
        vectors = each.encode(texts)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
