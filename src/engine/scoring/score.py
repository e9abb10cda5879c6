"""Score a Parquet file with a registered version: streamed, on every core, resumed after a kill.

The file is cut into parts of whole row groups. Each thread takes one part: Arrow decodes it, the feature program and
the model run without the GIL, and the part is written, synced and renamed before it counts. Joining the parts is the
last step, so the output is whole or absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine._common.arguments import whole
from engine.errors import InputError, InputTypeError
from engine.model import Model, load_model
from engine.registry import Bundle
from engine.registry.bundle import labels_of
from engine.scoring.parts import Parts, parquet, resolved
from engine.transform import FeatureProgram

if TYPE_CHECKING:
    import pyarrow as pa

# Rows after which a part is closed: a kill loses the unfinished ones, and a thread takes one at a time.
PART_ROWS = 100_000
THREADS_MAX = 4_096
# 30 float64 columns of a batch are 2 MB: they stay in the cache from decoding to scoring.
BATCH_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of `score`.

    Attributes:
        rows: in the output, in the input's order.
        parts: how many parts the file was cut into.
        resumed: how many of them an earlier run had finished.
        not_finite: rows scored in this run whose answer is NaN or infinite.
        seconds: from the call to the durable output.
    """

    rows: int
    parts: int
    resumed: int
    not_finite: int
    seconds: float


def score(
    bundle: Bundle | Model | str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    keep: Sequence[str] = (),
    column: str = "prediction",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Write the primary's answers to every row of `source` into `target`. Blocks until the output is durable.

    Args:
        bundle: from `registry.resolve`; or a Model or the path of a model file, without any registry. A bundle's
            program reads its inputs from the file's columns by name. Without a program the features are the columns
            that the model names, else all columns but `keep`, in order.
        source: a Parquet file. Each thread reads it a few thousand rows at a time.
        target: the Parquet file to write. It appears in one step at the end. Finished parts lie in the folder
            `TARGET.parts` until then; after a kill the same call resumes from them. It must not be the source, by any
            spelling or link, nor a file that `score` did not write.
        keep: columns of the source to copy.
        column: name of the answers: float64, or a fixed-size list of float64 if the model has several outputs. Where a
            version has classes other than 0 and 1, the column `COLUMN_label` has the likeliest one, of the type it had
            in training; null where the answer is NaN or infinite.
        threads: 1 to 4,096; by default one for each core that this process may use.
        overwrite: replace `target` if an earlier call wrote it.
        progress: called with the rows that are scored and those of the file, now and then, on the scoring threads.

    Returns:
        Counts and the time taken.

    Raises:
        InputError: `source` is no Parquet file, a column is missing or holds no numbers, `target` is the source, is
            there and may not be replaced, or cannot be written, or another process is scoring into it.
        RegistryError: the version is damaged.
        ModelError: the model failed on a row.
        MissingDependencyError: pyarrow is not installed.

    Example:
        >>> score(registry.resolve("flight-delay@production"), "in.parquet", "out.parquet")   # doctest: +SKIP
    """
    started = time.monotonic()
    require_apart(Path(source), Path(target))
    job = _Job(_Scorer.of(bundle), Path(source), Path(target), tuple(keep), column, overwrite)
    n_threads = threads if threads is not None else len(os.sched_getaffinity(0))
    whole("threads", n_threads, 1, THREADS_MAX)
    with job.parts.held():
        left = [index for index in range(len(job.cuts)) if not job.parts.finished(index, job.rows_of(index))]
        job.done = job.n_rows - sum(map(job.rows_of, left))
        job.progress = progress
        _run(job, left, n_threads)
        job.parts.join(len(job.cuts), job.schema)
    return Scored(
        job.n_rows, len(job.cuts), len(job.cuts) - len(left), job.not_finite, time.monotonic() - started
    )


def _run(job: _Job, left: list[int], n_threads: int) -> None:
    """Score the parts that are left. The first error stops the others at their next batch, and is raised."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="engine-score") as pool:
        futures = [pool.submit(job.score_part, index) for index in left]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Ctrl-C ends the wait too.
            job.stopped.set()
            for future in futures:
                future.cancel()
    failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in failures:
        if not isinstance(error, _Stopped):  # a stopped part failed because another did
            raise error


class _Stopped(Exception):
    """A part stopped early, because another part failed or Ctrl-C came."""


def require_apart(source: Path, target: Path) -> None:
    """Raise InputError if the output would be the input: the same file by another spelling, a link, or a part of it."""
    output = resolved(target)
    same = resolved(source) == output
    with contextlib.suppress(OSError):
        same = same or os.path.samefile(
            source, output
        )  # hard links, and letters of another case on some disks
    if same:
        raise InputError(
            f"the output {target} is the input {source}: choose another file, because it would be lost"
        )
    if resolved(source).is_relative_to(output.with_name(output.name + ".parts")):
        raise InputError(
            f"the input {source} lies among the parts of the output {target}: choose another output"
        )


@dataclass(frozen=True, slots=True)
class _Scorer:
    """The model and program that score the rows: of a registered version, or a model alone.

    Attributes:
        name, digest: written into the output; the digest decides whether parts are of the same run.
    """

    model: Model
    program: FeatureProgram | None
    classes: tuple[Any, ...] | None
    name: str
    digest: str

    @classmethod
    def of(cls, given: Bundle | Model | str | os.PathLike[str]) -> _Scorer:
        if isinstance(given, Bundle):
            version = given.version
            return cls(given.primary(), given.program(), given.classes, str(version), version.digest)
        if isinstance(given, str | os.PathLike):
            return cls(load_model(given), None, None, os.fspath(given), _digest_of(Path(given)))
        if isinstance(given, Model):
            # Without a digest no run can take up another's parts.
            digest = given.describe().get("digest") or secrets.token_hex(32)
            return cls(given, None, None, f"{given.format} model", str(digest))
        raise InputTypeError(f"expected a Bundle, a Model or the path of one, got {type(given).__name__}")


def _digest_of(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Job:
    """One file and one version: everything that the threads share, and the work on a part."""

    def __init__(
        self,
        scorer: _Scorer,
        source: Path,
        target: Path,
        keep: tuple[str, ...],
        column: str,
        overwrite: bool,
    ) -> None:
        self.source, self.keep = source, keep
        opened = self._open()
        self.program = scorer.program
        self.model = scorer.model
        # The answer to labels of 0 and 1 is the probability of a 1 and needs no decoding.
        plain = scorer.classes == (0, 1) and not isinstance(scorer.classes[0], bool)
        self.classes = None if plain else scorer.classes
        self.inputs = self._inputs(opened.schema_arrow)
        self.schema = self._schema(opened.schema_arrow, column, scorer)
        self.n_rows = opened.metadata.num_rows
        self.group_rows = [
            opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)
        ]
        self.cuts = list(_cuts(self.group_rows))
        self.not_finite = 0
        self.done = 0
        self.progress: Callable[[int, int], None] | None = None
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self.parts = Parts(target, self._digest(scorer), overwrite=overwrite)

    def rows_of(self, index: int) -> int:
        """Return the rows of a part."""
        first, end = self.cuts[index]
        return sum(self.group_rows[first:end])

    def score_part(self, index: int) -> None:
        """Read, score and write one part. Runs on a pool thread, with its own file handle."""
        first, end = self.cuts[index]
        wanted = list(dict.fromkeys([*self.inputs, *self.keep]))
        with self.parts.writing(index, self.schema) as writer:
            batches = self._open().iter_batches(
                BATCH_ROWS, row_groups=range(first, end), columns=wanted, use_threads=False
            )
            for scored in _gathered(self._scored(batch) for batch in batches):
                if self.stopped.is_set():
                    raise _Stopped
                writer.write_table(scored)
                if self.progress is not None:
                    with self._lock:
                        self.done += len(scored)
                        done = self.done
                    self.progress(done, self.n_rows)

    def _scored(self, batch: pa.RecordBatch) -> pa.Table:
        import pyarrow as pa

        answers = self.model.predict(self._features(batch))
        bad = int((~np.isfinite(answers)).reshape(len(answers), -1).any(axis=1).sum())
        if bad:
            with self._lock:
                self.not_finite += bad
        flat = pa.array(answers.reshape(-1))
        values = flat if answers.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, answers.shape[1])
        made = [values]
        if self.classes is not None:
            found = labels_of(answers, self.classes)
            texts = pa.types.is_string(self.schema.types[-1])
            made.append(
                pa.array(
                    [str(each) if texts and each is not None else each for each in found],
                    self.schema.types[-1],
                )
            )
        return pa.Table.from_arrays([*(batch.column(name) for name in self.keep), *made], schema=self.schema)

    def _features(self, batch: pa.RecordBatch) -> Any:
        import pyarrow as pa

        if self.program is not None:
            return self.program.batch(pa.Table.from_batches([batch]))
        if self.model.categories:  # the model turns them into codes
            return pa.Table.from_batches([batch.select(self.inputs)])
        columns = [batch.column(name) for name in self.inputs]
        single = all(pa.types.is_float32(column.type) for column in columns)
        rows = np.empty((len(batch), len(columns)), dtype=np.float32 if single else np.float64)
        for place, column in enumerate(columns):
            # Nulls become NaN, which models take as missing.
            rows[:, place] = column.to_numpy(zero_copy_only=False)
        return rows

    def _inputs(self, schema: pa.Schema) -> list[str]:
        names = schema.names
        for name in self.keep:
            if name not in names:
                raise InputError(
                    f"{self.source} has no column {name!r} to keep; it has: {', '.join(names[:30])}"
                )
        if self.program is not None:
            wanted = list(self.program.input_names)
        elif self.model.feature_names and set(self.model.feature_names) <= set(names):
            wanted = list(self.model.feature_names)
        else:
            wanted = [name for name in names if name not in self.keep]
            if len(wanted) != self.model.n_features:
                raise InputError(
                    f"{self.source}: the model takes {self.model.n_features} features, got {len(wanted)} columns "
                    f"besides those to keep: {', '.join(wanted[:8])}"
                )
        missing = [name for name in wanted if name not in names]
        if missing:
            raise InputError(f"{self.source} has no column {missing[0]!r}; it has: {', '.join(names[:30])}")
        if self.program is None:
            _require_numbers(
                self.source, schema, [name for name in wanted if name not in (self.model.categories or ())]
            )
        return wanted

    def _schema(self, schema: pa.Schema, column: str, scorer: _Scorer) -> pa.Schema:
        import pyarrow as pa

        if column in self.keep:
            raise InputError(f"the answers cannot be called {column!r}, which is a column to keep")
        n_outputs = self.model.n_outputs
        kind = pa.float64() if n_outputs == 1 else pa.list_(pa.float64(), n_outputs)
        about = {"engine.version": scorer.name, "engine.digest": scorer.digest}
        made = [pa.field(column, kind)]
        if self.classes is not None:
            if (label := f"{column}_label") in self.keep:
                raise InputError(
                    f"the labels are called {label!r}, which is a column to keep; choose another column="
                )
            made.append(pa.field(label, _label_kind(self.classes)))
        return pa.schema([*(schema.field(name) for name in self.keep), *made], about)

    def _digest(self, scorer: _Scorer) -> str:
        found = self.source.stat()
        parts = [
            scorer.digest,
            str(self.source.absolute()),
            found.st_size,
            found.st_mtime_ns,
            self.group_rows,
            self.schema.to_string(),
            self.inputs,
            PART_ROWS,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _open(self) -> Any:
        try:
            return parquet().ParquetFile(self.source, memory_map=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.source}: cannot be read as Parquet: {error}") from None


def _label_kind(classes: Sequence[Any]) -> pa.DataType:
    """Return the type that holds every class: text where they are of several."""
    import pyarrow as pa

    for kind, found in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if all(type(label) is kind for label in classes):
            return found
    return pa.string()


def _cuts(group_rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield parts as (first row group, the one after the last): PART_ROWS rows or more, except the last part."""
    first, rows = 0, 0
    for index, count in enumerate(group_rows):
        rows += count
        if rows >= PART_ROWS:
            yield first, index + 1
            first, rows = index + 1, 0
    if first < len(group_rows) or not group_rows:
        yield first, len(group_rows)


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of about PART_ROWS rows, because small row groups make the output slow to read."""
    import pyarrow as pa

    held: list[Any] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= PART_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _require_numbers(source: Path, schema: pa.Schema, names: Sequence[str]) -> None:
    import pyarrow as pa

    for name in names:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise InputError(
                f"{source}: column {name!r} has type {kind}; without a feature program it must hold numbers"
            )
