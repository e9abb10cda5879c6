"""Static encoders: an embedding a token, averaged. Worse than an encoder that reads texts, and a hundred times quicker.

They follow Model2Vec (Tulkens and van Dongen, MinishLab, 2024): the encoder embeds each token of its vocabulary alone,
principal components keep what matters, and frequent tokens weigh less (smooth inverse frequency: Arora, Liang and Ma,
ICLR 2017), as Zipf's law ranks them by their ids.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine._common import arguments, optional
from engine.cache.encoders import WARM_UP, Encoder
from engine.cache.sentence import SentenceEncoder
from engine.errors import ConfigError, InputTypeError, ModelFormatError

TOKENS_A_CALL = 256
SIF = 1e-4


class StaticEncoder(Encoder):
    """A static model of the package model2vec as an encoder, the fallback of a cache.

    Its embeddings have a space of their own: a model that reads the encoder's cannot read them.

    Args:
        model: a `model2vec.StaticModel`.

    Attributes:
        model: as given.

    Raises:
        InputTypeError: no StaticModel.
        MissingDependencyError: model2vec is not installed.

    Thread-safe.
    """

    def __init__(self, model: Any) -> None:
        model2vec = optional.need("model2vec", "a static encoder", "cache")
        if not isinstance(model, model2vec.StaticModel):
            raise InputTypeError(f"expected a model2vec.StaticModel, got {arguments.shown(model)}")
        self.model = model
        parts = (model.embedding, model.weights, model.token_mapping)
        sha = hashlib.sha256()
        for part in parts:
            sha.update(b"none" if part is None else str((part.dtype, part.shape)).encode() + part.tobytes())
        super().__init__(
            self._embedded,
            digest=sha.hexdigest(),
            tokenizer_digest=hashlib.sha256(model.tokenizer.to_str().encode()).hexdigest(),
            options={"normalize": bool(model.normalize), "tokens_max": model.max_length},
            dimensions=int(model.dim),
            warm_up=WARM_UP,
        )

    def _embedded(self, texts: list[Any]) -> npt.NDArray[np.float32]:
        plain = [text if isinstance(text, str) else bytes(text).decode() for text in texts]
        return np.asarray(
            self.model.encode(plain, max_length=self.model.max_length, use_multiprocessing=False), np.float32
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a model that `save`, or model2vec, has written into a folder.

        Raises:
            FileNotFoundError: no such folder.
            ModelFormatError: it holds no static model.
            MissingDependencyError: model2vec is not installed.
        """
        model2vec = optional.need("model2vec", "a static encoder", "cache")
        if not Path(folder).is_dir():  # model2vec would look for it on the network
            raise FileNotFoundError(f"{folder}: no such folder")
        try:
            return cls(model2vec.StaticModel.from_pretrained(Path(folder), force_download=False))
        except Exception as error:  # it raises what its libraries raise
            raise ModelFormatError(f"{folder}: holds no static model: {error}") from error

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model into a folder, as model2vec does; `load` reads it."""
        self.model.save_pretrained(Path(folder))

    @classmethod
    def distilled(
        cls, encoder: SentenceEncoder, *, dimensions: int = 256, vocabulary_max: int | None = None
    ) -> Self:
        """Distil a static model from a sentence encoder, without texts: from its vocabulary alone.

        Args:
            encoder: the encoder.
            dimensions: numbers an embedding, 1 to the encoder's.
            vocabulary_max: use the first tokens of the vocabulary only, and leave the others at zero; all unless given.

        Returns:
            The static encoder, in half precision.

        Raises:
            InputTypeError: no SentenceEncoder.
            ConfigError: an option out of range.
            MissingDependencyError: model2vec is not installed.

        Blocks: about half a minute on one core for a MiniLM with 30,522 tokens.
        """
        model2vec = optional.need("model2vec", "a static encoder", "cache")
        if not isinstance(encoder, SentenceEncoder):
            raise InputTypeError(f"expected a SentenceEncoder, got {arguments.shown(encoder)}")
        tokens = encoder.tokenizer.get_vocab_size()
        used = tokens if vocabulary_max is None else vocabulary_max
        arguments.whole("vocabulary_max", used, 1, tokens, error=ConfigError)
        arguments.whole("dimensions", dimensions, 1, min(encoder.dimensions, used), error=ConfigError)
        vectors = np.zeros((tokens, dimensions), np.float16)
        vectors[:used] = _reduced(_token_vectors(encoder, used), dimensions)
        made = model2vec.StaticModel(
            vectors,
            encoder.tokenizer,
            config={"model_type": "model2vec", "apply_pca": dimensions, "sif_coefficient": SIF},
            normalize=True,
        )
        return cls(made)


def _token_vectors(encoder: SentenceEncoder, count: int) -> npt.NDArray[np.float64]:
    """Embed each of the first tokens alone, between the marks of begin and end."""
    marked = encoder.tokenizer.encode("").ids
    rows = np.full((count, encoder.tokens_max), -1.0, np.float32)
    at = len(marked) // 2
    rows[:, : len(marked) + 1] = [*marked[:at], 0, *marked[at:]]
    rows[:, at] = np.arange(count)
    parts = [
        encoder.model.predict(rows[first : first + TOKENS_A_CALL]).reshape(-1, encoder.dimensions)
        for first in range(0, count, TOKENS_A_CALL)
    ]
    return np.concatenate(parts)


def _reduced(vectors: npt.NDArray[np.float64], dimensions: int) -> npt.NDArray[np.float64]:
    """The principal components of token vectors, frequent tokens scaled down."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    reduced = centred @ axes[:, ::-1][:, :dimensions]
    # The signs of axes are arbitrary, and differ among libraries of linear algebra.
    reduced *= np.sign(reduced[np.abs(reduced).argmax(axis=0), np.arange(dimensions)])
    share = 1.0 / np.arange(2, len(vectors) + 2)
    share /= share.sum()
    return reduced * (SIF / (SIF + share))[:, None]
