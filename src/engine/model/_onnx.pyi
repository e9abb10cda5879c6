from typing_extensions import CapsuleType

class LibraryError(Exception):
    """ONNX Runtime's shared library cannot be used through its C API; its Python API may still serve."""

def scan(model: bytes) -> tuple[list[str], dict[str, str]]:
    """Return the files that the tensors of an ONNX model refer to, and its metadata: ([location, …], {key: value}).

    Opens and loads nothing.

    Raises:
        ModelFormatError: the bytes are damaged, cut short or hold no graph.
    """

def library_version(library: str) -> str:
    """Return the version that the shared library at this path reports, such as "1.20.1".

    Raises:
        LibraryError: the library cannot be used.
    """

def last_error(capsule: CapsuleType) -> str:
    """Return ONNX Runtime's message for the last failed call of a capsule made by `Session.scorer`.

    "" where no call failed, and for any other capsule. Raises ConfigError for an object that is no scorer capsule.
    """

class Session:
    """A model loaded by ONNX Runtime's shared library.

    Args:
        library: path of libonnxruntime.so.
        model: the model's bytes; or its path, for a model with tensors in files of their own.
        intra_op_threads: threads of one call; 1 stays on the calling thread.

    Raises:
        LibraryError: the library cannot be used.
        ModelFormatError: the model is damaged.
        UnsupportedModelError: the library lacks an operator or a version of the model.
    """
    def __init__(self, library: str, model: bytes | str, intra_op_threads: int) -> None: ...
    @property
    def inputs(self) -> list[tuple[str, int | None, list[int]]]:
        """(name, element type or None where it is no tensor, shape with -1 for a dynamic axis) of each input."""
    @property
    def outputs(self) -> list[tuple[str, int | None, list[int]]]:
        """(name, element type, shape) of each output, as `inputs`."""
    def probe(
        self, *, input: str, input_element: int, n_features: int, output: str, n_rows: int
    ) -> tuple[int | None, list[int]]:
        """Score rows of zeros; return (element type or None where it is no tensor, shape) of the output.

        Args:
            input, output: names of the input and the output.
            input_element: ONNX's number of the input's element type, 1 (float) or 11 (double).
            n_features: values a row.
            n_rows: rows of zeros.

        Raises:
            UnsupportedModelError: the model cannot score them; the message is the library's.
        """
    def scorer(
        self,
        *,
        input: str,
        input_element: int,
        n_features: int,
        output: str,
        n_columns: int,
        first_column: int,
        n_outputs: int,
        row_by_row: bool,
    ) -> CapsuleType:
        """Return a capsule `engine.scorer.v1` over this session, which the capsule keeps alive.

        Args:
            input, input_element, n_features, output: as in `probe`.
            n_columns: columns of the output.
            first_column, n_outputs: the columns [first_column, first_column + n_outputs) are the answer.
            row_by_row: the model's batch axis is fixed at one row.

        Raises:
            ConfigError: the columns do not exist, or n_features or n_outputs is 0.
        """
