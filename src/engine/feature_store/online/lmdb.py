"""The embedded online store: LMDB, one folder, shared by the processes of one machine."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import MissingDependencyError, StoreError
from engine.feature_store._codec import supersedes
from engine.feature_store.online import OnlineStore, Unavailable

_NOTE = b"\x00note\x00"
_REVISION = _NOTE + b"revision"

# LMDB must not have one environment open twice in a process. Nobody holds one longer than for an operation but who
# fetches: it is closed with its last user, so that a process can materialise, then fork, and its children can open it.
_open: weakref.WeakValueDictionary[tuple[int, str], Any] = weakref.WeakValueDictionary()
_open_lock = threading.Lock()


def _new_lock() -> None:
    global _open_lock
    _open_lock = threading.Lock()


# The thread that held it is not there in the child.
os.register_at_fork(after_in_child=_new_lock)


class LMDBOnline(OnlineStore):
    """Keeps rows in an LMDB environment. Reads are microseconds in place; one writer at a time, the others wait.

    Args:
        folder: of the environment; made if it is not there.
        map_bytes: the most it may ever hold; address space, not memory or disk.
        read_only: open what is there, refuse to write. A folder that cannot be written needs this.

    Thread-safe, and safe among processes on one machine; not on a network file system. A process may be forked as long
    as none of its online features has fetched; after that its children's would find the store down. Expired rows are
    not deleted, only no longer served: the folder grows with the number of entities, not with time.

    Raises:
        MissingDependencyError: lmdb is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        map_bytes: int = 1 << 36,
        read_only: bool = False,
    ) -> None:
        try:
            import lmdb
        except ImportError:
            raise MissingDependencyError(
                "the embedded online store needs lmdb: pip install 'deadline-engine[store]'"
            ) from None
        self._lmdb = lmdb
        self.folder = Path(folder)
        self.map_bytes = map_bytes
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"LMDBOnline({str(self.folder)!r})"

    def prefix(self, view: str) -> bytes:
        return view.encode() + b"\x00"

    def wire(self) -> LMDBWire:
        return LMDBWire(self)

    @property
    def environment(self) -> Any:
        """The open environment, for as long as somebody holds it. Raises StoreError where it cannot be opened."""
        key = (os.getpid(), os.path.realpath(self.folder))
        with _open_lock:
            environment = _open.get(key)
            if environment is None:
                environment = _open[key] = self._open_environment()
            return environment

    def _open_environment(self) -> Any:
        try:
            if not self.read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            # Without read-ahead: look-ups are of single rows. Spare transactions are reused, which halves a look-up.
            return self._lmdb.open(
                str(self.folder),
                map_size=self.map_bytes,
                readonly=self.read_only,
                readahead=False,
                max_readers=1024,
                max_spare_txns=64,
            )
        except self._lmdb.Error as error:
            hint = ""
            if any(os.path.realpath(self.folder) == folder for _, folder in _open):
                hint = "; this process was forked from one that has fetched from it, and must be forked before that"
            raise StoreError(
                f"{self.folder}: cannot be opened as an LMDB environment: {error}{hint}"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be made: {error.strerror}") from error

    def next_revision(self) -> int:
        with self._writing() as transaction:
            revision = int(transaction.get(_REVISION, b"0")) + 1
            transaction.put(_REVISION, b"%d" % revision)
        return revision

    def note(self, name: str) -> bytes | None:
        try:
            environment = self.environment
            with environment.begin() as transaction:
                return transaction.get(_NOTE + name.encode())
        except self._lmdb.Error as error:
            raise StoreError(f"{self.folder}: cannot be read: {error}") from error

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """One transaction: after a kill all of it is there or nothing, rows and notes alike."""
        try:
            with self._writing() as transaction:
                counts = _put(transaction, pairs)
                for name, value in notes.items():
                    if value is None:
                        transaction.delete(_NOTE + name.encode())
                    else:
                        transaction.put(_NOTE + name.encode(), value)
        except _Foreign as foreign:
            return 0, 0, 0, foreign.key
        return counts[0], counts[1], counts[2], None

    def _writing(self) -> _Writing:
        return _Writing(self)


class _Foreign(Exception):
    """A key that holds no row of ours; ends the transaction."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


def _put(transaction: Any, pairs: Sequence[tuple[bytes, bytes]]) -> list[int]:
    """Puts what is newer; counts what was written, the same, older."""
    counts = [0, 0, 0]
    get, put = transaction.get, transaction.put
    for key, row in pairs:
        old = get(key)
        order = 1 if old is None else supersedes(row, old)
        if order == 1:
            put(key, row)
            counts[0] += 1
        elif order == -2:
            raise _Foreign(key)
        else:
            counts[1 if order == 0 else 2] += 1
    return counts


class _Writing:
    """A write transaction whose errors are ours: whatever goes wrong, nothing of it is written."""

    def __init__(self, store: LMDBOnline) -> None:
        self.store = store

    def __enter__(self) -> Any:
        store = self.store
        if store.read_only:
            raise StoreError(f"{store.folder}: was opened with read_only=True, so it cannot be written")
        try:
            # Held for as long as the transaction, which would not keep it open.
            self.environment = store.environment
            self.transaction = self.environment.begin(write=True)
        except store._lmdb.Error as error:
            raise StoreError(f"{store.folder}: cannot be written: {error}") from error
        return self.transaction

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        store, lmdb = self.store, self.store._lmdb
        try:
            if kind is None:
                self.transaction.commit()
                return
            self.transaction.abort()
        except lmdb.Error as failure:
            kind, error = type(failure), failure
        if isinstance(error, lmdb.MapFullError):
            raise StoreError(
                f"{store.folder}: full: the rows do not fit into map_bytes={store.map_bytes}; open it with more"
            ) from error
        if isinstance(error, lmdb.Error):
            raise StoreError(
                f"{store.folder}: cannot be written: {error}; nothing of this batch was"
            ) from error


class LMDBWire:
    """Reads in place, on the caller's thread; nothing waits for another process."""

    blocking = False

    def __init__(self, store: LMDBOnline) -> None:
        self._store = store
        self._error = store._lmdb.Error
        self._environment: Any = None
        self._pid = 0

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        try:
            if self._pid != os.getpid():
                self._environment = self._store.environment
                self._pid = os.getpid()
            with self._environment.begin() as transaction:
                return list(map(transaction.get, keys))
        except (self._error, StoreError) as error:
            raise Unavailable("store_down", str(error)) from None

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        return self.read(keys, deadline_ns)

    def close(self) -> None:
        """Nothing to close: the environment is shared by the stores of this process."""
