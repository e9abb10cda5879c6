"""Sentence encoders of the BERT family, read from a folder of sentence-transformers and run natively."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments, optional
from engine.cache import bert
from engine.cache.encoders import WARM_UP, Encoder
from engine.errors import ConfigError, ModelFormatError
from engine.model import Model
from engine.model.onnx import load_onnx


class SentenceEncoder(Encoder):
    """A sentence encoder such as MiniLM: the tokenizer of `tokenizers`, and one native call of ONNX Runtime.

    Tokens go in and a pooled, normalised embedding comes out without PyTorch, and without the GIL.

    Args:
        folder: of sentence-transformers: config.json, model.safetensors and tokenizer.json, and where they are there
            1_Pooling/config.json, modules.json and sentence_bert_config.json.
        threads: threads that one call may use, 1 to 1,024.
        tokens_max: the most tokens of a text, its marks for begin and end included; a longer text is cut. The folder's
            own unless given.
        warm_up: texts like those to come, to measure the encoder with.

    Attributes:
        model: the Model, whose rows are token ids, float32 [n, tokens_max].
        tokenizer: the `tokenizers.Tokenizer`.
        tokens_max: int.

    Raises:
        FileNotFoundError: no such folder, or a file is missing.
        ModelFormatError: a file that cannot be read, or lacks a weight.
        UnsupportedModelError: no BERT with pooling by mean or of the first token.
        ConfigError: an option out of range.
        MissingDependencyError: onnxruntime, onnx, tokenizers or safetensors is not installed.

    The constructor takes about a second for a model of 90 MB. Thread-safe.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int = 1,
        tokens_max: int | None = None,
        warm_up: Sequence[str] = WARM_UP,
    ) -> None:
        tokenizers = optional.need("tokenizers", "a sentence encoder", "cache")
        numpy_tensors = optional.need("safetensors.numpy", "a sentence encoder", "cache")
        folder = Path(folder)
        shape = bert.shape_of(folder)
        if tokens_max is not None:
            arguments.whole("tokens_max", tokens_max, 2, shape.tokens_max, error=ConfigError)
            shape = bert.Shape(**{**vars(shape), "tokens_max": tokens_max})
        weights = (folder / "model.safetensors").read_bytes()
        words = (folder / "tokenizer.json").read_bytes()
        try:
            read = numpy_tensors.load(weights)
            self.tokenizer = tokenizers.Tokenizer.from_str(words.decode())
        except Exception as error:  # both libraries raise what they like
            raise ModelFormatError(f"{folder}: cannot be read: {error}") from error
        self.tokens_max = shape.tokens_max
        self.tokenizer.enable_truncation(self.tokens_max)
        self.tokenizer.no_padding()
        named = {name.removeprefix("bert."): np.asarray(each, np.float32) for name, each in read.items()}
        self.model: Model = load_onnx(bert.graph(named, shape), intra_op_threads=threads)
        super().__init__(
            self._embedded,
            digest=hashlib.sha256(weights).hexdigest(),
            tokenizer_digest=hashlib.sha256(words).hexdigest(),
            options={name: value for name, value in vars(shape).items() if name != "layers"},
            dimensions=self.model.n_outputs,
            warm_up=warm_up,
        )

    def rows(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the token ids of n texts as rows of the model, float32 [n, tokens_max]; -1 behind the end of each."""
        found: list[Any] = self.tokenizer.encode_batch_fast(list(texts))
        rows = np.full((len(found), self.tokens_max), bert.ABSENT, np.float32)
        for row, each in zip(rows, found, strict=True):
            ids = each.ids
            row[: len(ids)] = ids
        return rows

    def _embedded(self, texts: list[Any]) -> npt.NDArray[np.float64]:
        plain = [text if isinstance(text, str) else bytes(text).decode() for text in texts]
        # One long text would pad all others: similar lengths go together.
        rows = self.rows(plain)
        lengths = (rows >= 0).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        vectors = np.empty((len(plain), self.model.n_outputs))
        for part in _parts(lengths[order]):
            vectors[order[part]] = self.model.predict(rows[order[part]]).reshape(-1, self.model.n_outputs)
        return vectors


def _parts(lengths: npt.NDArray[np.int64]) -> list[slice]:
    """Cut rising lengths into parts whose longest is at most twice their shortest."""
    cuts, first = [0], 0
    for at, length in enumerate(lengths.tolist()):
        if length > 2 * lengths[first]:
            cuts.append(at)
            first = at
    return [slice(low, high) for low, high in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]
