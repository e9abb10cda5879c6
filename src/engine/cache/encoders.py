"""Encoders: a function of texts, and everything that its embeddings depend on, as a digest."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments, canonical
from engine.errors import ConfigError, InputTypeError

Vectors = npt.NDArray[np.float32]
WARM_UP = ("a text of about the usual length, to measure the encoder with",)


class Encoder:
    """A function that embeds inputs, with the digests that tell its embeddings from another's.

    Args:
        encode: takes a list of n inputs (str or bytes) and returns numbers [n, dimensions]. One thread calls it at a
            time, and never with an empty list.
        digest: whatever stands for the encoder's weights: the sha256 of its file, or a name with a version. None makes
            one up that holds in this process only, so that no second level can be used.
        tokenizer_digest: the same for its tokenizer; "" where the digest of the encoder covers it.
        options: what else its embeddings depend on, as JSON: a prompt, a length at which texts are cut, a pooling.
        dimensions: numbers an embedding, 1 to 65,536; measured on `warm_up` unless given.
        warm_up: inputs like those to come, to measure the encoder with; at least one.

    Attributes:
        digest, tokenizer_digest, options, warm_up: as given.
        dimensions: int.
        durable: bool, whether a digest was given.
        space: digest of all three, 64 hex digits. Embeddings of two spaces have nothing to do with each other.

    Raises:
        InputTypeError: `encode` is not callable.
        ConfigError: options that are no JSON, no warm_up, or an encoder that fails or does not return [n, dimensions].
    """

    def __init__(
        self,
        encode: Callable[[list[Any]], Any],
        *,
        digest: str | None = None,
        tokenizer_digest: str = "",
        options: Mapping[str, Any] | None = None,
        dimensions: int | None = None,
        warm_up: Sequence[str | bytes] = WARM_UP,
    ) -> None:
        if not callable(encode):
            raise InputTypeError(
                f"encode must be a function of a list of inputs, got {arguments.shown(encode)}"
            )
        if isinstance(warm_up, str | bytes) or not warm_up:
            raise ConfigError(f"warm_up must be a list of one input or more, got {arguments.shown(warm_up)}")
        self._encode = encode
        self.durable = digest is not None
        self.digest = digest if digest is not None else secrets.token_hex(32)
        self.tokenizer_digest = tokenizer_digest
        self.options = dict(options or {})
        self.warm_up = tuple(warm_up)
        try:
            self.space = canonical.digest(
                {"encoder": self.digest, "tokenizer": tokenizer_digest, "options": self.options}
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"options must be JSON, because they are part of every key, got {self.options!r:.80}: {error}"
            ) from None
        if dimensions is None:
            try:
                made = encode(list(self.warm_up[:1]))
            except Exception as error:
                raise ConfigError(
                    f"the encoder failed for {self.warm_up[0]!r:.60}, the first of warm_up: "
                    f"{type(error).__name__}: {error}"
                ) from error
            dimensions = _dimensions_of(made)
        self.dimensions = arguments.whole("dimensions", dimensions, 1, 65_536, error=ConfigError)

    def encode(self, inputs: Sequence[Any]) -> Vectors:
        """Embed inputs now, without a cache or a deadline.

        Args:
            inputs: n str or bytes.

        Returns:
            float32 [n, dimensions].

        Raises:
            ValueError: the function returned another shape, or values that are no numbers.
        """
        if len(inputs) == 0:
            return np.empty((0, self.dimensions), np.float32)
        vectors = np.asarray(self._encode(list(inputs)), dtype=np.float32)
        if vectors.shape != (len(inputs), self.dimensions):
            raise ValueError(
                f"the encoder returned an array of shape {vectors.shape}, expected "
                f"({len(inputs)}, {self.dimensions}) for {len(inputs)} inputs"
            )
        return vectors

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dimensions={self.dimensions}, space={self.space[:12]!r})"


def _dimensions_of(made: Any) -> int:
    shape = np.shape(made)
    if len(shape) != 2 or shape[0] != 1:
        raise ConfigError(
            f"an encoder returns numbers [n, dimensions] for a list of n inputs, got shape {shape} for one input"
        )
    return int(shape[1])


def encoder_of(source: Any) -> Encoder:
    """Return an encoder as it is, and make one of a function, or of an object with a method `encode`.

    Raises:
        InputTypeError: neither.
    """
    if isinstance(source, Encoder):
        return source
    encode = getattr(source, "encode", source)
    if isinstance(source, str | bytes) or not callable(encode):
        raise InputTypeError(
            "expected an Encoder, a function of a list of inputs, or an object with a method encode(inputs), "
            f"got {arguments.shown(source)}"
        )
    return Encoder(encode)
