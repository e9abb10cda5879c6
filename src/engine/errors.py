"""The exception tree of the package: every error a caller can meet, under the built-in where a user would look for it.

A model that fails or is late never raises into the caller of `predict`: that is an `Answer` with a reason.
"""


class EngineError(Exception):
    """Base of everything this package raises on purpose."""


class InputError(EngineError, ValueError):
    """A row, a deadline or a table that cannot be used: wrong width, wrong key, negative or NaN deadline."""


class InputTypeError(EngineError, TypeError):
    """A value of a type that cannot be read, a string where a number was expected, say."""


class ConfigError(EngineError, ValueError):
    """Parts that do not fit together: a fallback of another width, a lane that the model cannot use."""


class ModelFormatError(EngineError, ValueError):
    """A model file that is truncated, damaged or of a format that is not known."""


class UnsupportedModelError(ModelFormatError):
    """A model that was understood and cannot be represented exactly, so it is refused rather than approximated."""


class ModelError(EngineError, RuntimeError):
    """A model that failed when called directly by `Model.predict`; `Engine.predict` never raises it."""


class ProgramError(EngineError, ValueError):
    """A feature program that is damaged, was edited after it was frozen, or whose spec makes no sense."""


class ClosedError(EngineError, RuntimeError):
    """The engine was closed, or belongs to the process that this one was forked from."""


class MissingDependencyError(EngineError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


class StoreError(EngineError, RuntimeError):
    """A feature store that cannot be read or written as asked: a column missing, a foreign file, a full disk."""


class RegistryError(EngineError, RuntimeError):
    """A version that does not exist, an artifact other than what was registered, a name that is not allowed."""


class MonitorError(EngineError, ValueError):
    """A reference or a label that the monitor cannot use."""


class TrainingError(EngineError, RuntimeError):
    """A training run that cannot go on: a dataset without rows, a checkpoint of another run."""
