"""Encoders: the parts of a key, and the kinds of encoders."""

import numpy as np
import pytest

from engine.cache import Encoder
from engine.cache.encoders import encoder_of
from engine.errors import ConfigError, InputTypeError


def ones(texts):
    return np.ones((len(texts), 3))


def test_the_space_is_encoder_tokenizer_and_options():
    spaces = {
        Encoder(ones, digest=digest, tokenizer_digest=words, options=options).space
        for digest in ("a", "b")
        for words in ("", "t")
        for options in (None, {"prompt": "query: "}, {"prompt": ""})
    }
    assert len(spaces) == 12
    assert Encoder(ones, digest="a", options={}).space == Encoder(ones, digest="a").space


def test_an_encoder_without_a_digest_is_like_no_other():
    assert Encoder(ones).space != Encoder(ones).space
    assert not Encoder(ones).durable
    assert Encoder(ones, digest="a").durable


def test_dimensions_are_measured():
    assert Encoder(ones).dimensions == 3
    assert Encoder(ones).encode(["a", "b"]).shape == (2, 3)
    assert Encoder(ones).encode([]).shape == (0, 3)
    assert Encoder(ones).encode(["a"]).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encode": 7}, InputTypeError, "encode must be a function"),
        ({"encode": lambda texts: 1.0}, ConfigError, r"returns numbers \[n, dimensions\]"),
        ({"encode": lambda texts: [[1.0]] * 5}, ConfigError, r"got shape \(5, 1\) for one input"),
        ({"encode": ones, "warm_up": "text"}, ConfigError, "warm_up must be a list"),
        ({"encode": ones, "warm_up": []}, ConfigError, "warm_up must be a list"),
        ({"encode": ones, "options": {"x": ones}}, ConfigError, "options must be JSON"),
        ({"encode": ones, "dimensions": 0}, ConfigError, "dimensions must be an int from 1"),
    ],
)
def test_what_is_no_encoder_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Encoder(**arguments)


def test_an_encoder_that_fails_at_once_is_refused():
    def fails(texts):
        raise OSError("no such weights")

    with pytest.raises(
        ConfigError, match=r"the encoder failed for 'a text of about.*: OSError: no such weights"
    ):
        Encoder(fails)


def test_an_encoder_of_another_shape_fails():
    with pytest.raises(ValueError, match=r"of shape \(2, 3\), expected \(2, 4\) for 2 inputs"):
        Encoder(ones, dimensions=4).encode(["a", "b"])


def test_functions_and_objects_that_encode_are_encoders():
    class Model:
        def encode(self, texts):
            return np.ones((len(texts), 2))

    made = Encoder(ones)
    assert encoder_of(made) is made
    assert encoder_of(ones).dimensions == 3
    assert encoder_of(Model()).dimensions == 2
    for other in ("text", b"bytes", None, 5):
        with pytest.raises(InputTypeError, match="expected an Encoder, a function of a list of inputs"):
            encoder_of(other)
