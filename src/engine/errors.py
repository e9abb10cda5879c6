"""The exception tree of the package. Each error is also the built-in exception that a user would catch.

A model that fails or is late never raises in `predict`: it gives an `Answer` with a reason.
"""


class EngineError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(EngineError, ValueError):
    """Raised for a row, deadline or table that cannot be used: wrong width, unknown key, negative or NaN deadline."""


class InputTypeError(EngineError, TypeError):
    """Raised for a value of the wrong type, such as text where a number belongs."""


class ConfigError(EngineError, ValueError):
    """Raised for options out of range and parts that do not fit together, such as a fallback of another width."""


class ModelFormatError(EngineError, ValueError):
    """Raised for a model file that is truncated, damaged or of an unknown format."""


class UnsupportedModelError(ModelFormatError):
    """Raised for a model that was read but cannot be represented exactly; it is never approximated."""


class ModelError(EngineError, RuntimeError):
    """Raised if a model fails in `Model.predict`, or on golden or warm-up rows; `Engine.predict` never raises it."""


class ModelTimeoutError(ModelError, TimeoutError):
    """Raised if a new version was not checked and measured within `timeout_s`; the version before serves on."""


class ProgramError(EngineError, ValueError):
    """Raised for a damaged feature program, one that was edited after it was frozen, or a spec without meaning."""


class ClosedError(EngineError, RuntimeError):
    """Raised by an engine that was closed, or that belongs to the process that this one was forked from."""


class ResourceError(EngineError, OSError):
    """Raised when the system gives no more threads or file descriptors; the message names the limits."""


class MissingDependencyError(EngineError, ImportError):
    """Raised when an optional library is not installed; the message names the extra that brings it."""


class StoreError(EngineError, RuntimeError):
    """Raised when a feature store cannot be read or written: a missing column, a foreign file, a full disk."""


class RegistryError(EngineError, RuntimeError):
    """Raised for a version that does not exist, an artifact that differs from the registered one, or a bad name."""


class MonitorError(EngineError, ValueError):
    """Raised for a reference or a label that the monitor cannot use."""


class TrainingError(EngineError, RuntimeError):
    """Raised when a training run cannot go on: a dataset without rows, a checkpoint of another run."""
