"""The embedded online store: LMDB, one folder, shared by the processes of one machine."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine._common import arguments, optional
from engine.errors import InputTypeError, StoreError
from engine.feature_store._codec import supersedes
from engine.feature_store.online.base import OnlineStore, Unavailable

_NOTE = b"\x00note\x00"
_REVISION = _NOTE + b"revision"
_SCHEMA = _NOTE + b"schema:"
_LOG = b"\x00log\x00"
MAP_BYTES_MAX = 2**63 - 1

# A write waits this long for the transactions of other threads to end before the environment grows.
GROW_S_MAX = 30.0
_GROW_PAUSE_S = 0.0002
CLOSING_S_MAX = 2.0

# LMDB forbids a process to open one environment twice, so all stores of a folder share it. An environment closes with
# its last user: an operation holds it until it ends, a wire that has fetched holds it on. So a process can materialise,
# then fork, and its children can open the environment.
_open: weakref.WeakValueDictionary[tuple[int, str], Any] = weakref.WeakValueDictionary()
_gates: weakref.WeakKeyDictionary[Any, Gate] = weakref.WeakKeyDictionary()
_open_lock = threading.Lock()


def _new_lock() -> None:
    global _open_lock
    _open_lock = threading.Lock()


# The child has no copy of the thread that may hold the lock.
os.register_at_fork(after_in_child=_new_lock)


class Gate:
    """Let an open environment grow while no thread of this process has a transaction, because growing moves the map.

    An environment must grow when another process has written more than the map held here. Each transaction is entered
    and left by one atomic operation on a list. A thread that grows the map closes the gate, and then waits until the
    lists are empty.

    Args:
        environment: the environment, which this does not keep open.
        map_bytes: the size that it was opened with.

    Attributes:
        map_bytes: its size now.
        reading: one element for each read transaction of this process.
        closed: whether a thread is about to grow it. A read enters first and looks at this then.
    """

    def __init__(self, environment: Any, map_bytes: int) -> None:
        self.map_bytes = map_bytes
        self._environment = weakref.ref(environment)
        self.reading: list[None] = []
        self._writing: list[None] = []
        self.closed = False
        self._lock = threading.Lock()

    def enter(self, deadline_ns: int) -> None:
        """Enter a read transaction. Raises TimeoutError if the gate is closed until `deadline_ns`."""
        self._enter(self.reading, deadline_ns)

    def enter_writing(self, deadline_ns: int) -> None:
        """Enter a write transaction. Raises TimeoutError if the gate is closed until `deadline_ns`."""
        self._enter(self._writing, deadline_ns)

    def leave_writing(self) -> None:
        """Leave a write transaction."""
        self._writing.pop()

    def _enter(self, entered: list[None], deadline_ns: int) -> None:
        # Enter first and look then: a thread that closes the gate looks at the lists afterwards.
        entered.append(None)
        while self.closed:
            entered.pop()
            if time.monotonic_ns() > deadline_ns:
                raise TimeoutError("the store grows")
            time.sleep(_GROW_PAUSE_S)
            entered.append(None)

    def grow(self, map_bytes: int, deadline_ns: int) -> None:
        """Take the size on disk (0), or grow to `map_bytes` if that is more. The caller has no transaction.

        Raises:
            TimeoutError: transactions of other threads did not end by `deadline_ns`.
        """
        with self._lock:
            if 0 < map_bytes <= self.map_bytes:
                return
            # A write may wait for another process for long, and reads go on meanwhile.
            self._wait_for(self._writing, deadline_ns)
            self.closed = True
            try:
                self._wait_for(self._writing, deadline_ns)
                self._wait_for(self.reading, deadline_ns)
                environment = self._environment()
                if environment is not None:
                    environment.set_mapsize(map_bytes)
                    self.map_bytes = environment.info()["map_size"]
            finally:
                self.closed = False

    @staticmethod
    def _wait_for(entered: list[None], deadline_ns: int) -> None:
        while entered:
            if time.monotonic_ns() > deadline_ns:
                raise TimeoutError("the store has grown, and another thread still uses it")
            time.sleep(_GROW_PAUSE_S)


class LMDBOnline(OnlineStore):
    """Keep rows in an LMDB environment: a read takes microseconds, in place; one process writes while others wait.

    Args:
        folder: the environment's folder; the first write or read makes it.
        map_bytes: the most bytes it may ever hold, above zero. This is address space, not memory or disk. It may be
            opened with more later, while other processes have it open.
        read_only: open an existing environment and refuse to write. A folder without write permission needs this.

    Attributes:
        folder, map_bytes, read_only: as given; the folder as a Path.

    Thread-safe, and safe among processes of one machine, but not on a network file system. Fork a process before its
    online features fetch for the first time; a child forked later finds the store down. An expired row is no longer
    served, but it is not deleted: the folder grows with the number of entities, not with time.

    Raises:
        MissingDependencyError: lmdb is not installed.
        InputError: map_bytes is not above zero.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        map_bytes: int = 1 << 36,
        read_only: bool = False,
    ) -> None:
        self._lmdb = optional.need("lmdb", "the embedded online store", "store")
        arguments.whole("map_bytes", map_bytes, 1, MAP_BYTES_MAX, type_error=InputTypeError)
        self.folder = Path(folder)
        self.map_bytes = map_bytes
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"LMDBOnline({str(self.folder)!r})"

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view: its name and a zero byte, which no name has."""
        return view.encode() + b"\x00"

    def wire(self) -> LMDBWire:
        """A new reader, which opens the environment at its first read."""
        return LMDBWire(self)

    @property
    def environment(self) -> Any:
        """The open environment, which closes with its last reference. Raises StoreError if it cannot be opened."""
        key = (os.getpid(), os.path.realpath(self.folder))
        with _open_lock:
            environment = _open.get(key)
            if environment is None:
                environment = self._open_environment()
                _gates[environment] = Gate(environment, environment.info()["map_size"])
                _open[key] = environment
        gate = _gates[environment]
        if gate.map_bytes < self.map_bytes and not self.read_only:
            # Another store of this process opened it with less.
            try:
                gate.grow(self.map_bytes, _grown_by())
            except (TimeoutError, self._lmdb.Error) as error:
                raise StoreError(
                    f"{self.folder}: cannot grow to map_bytes={self.map_bytes}: {error}"
                ) from error
        return environment

    def _open_environment(self) -> Any:
        give_up_s = time.monotonic() + CLOSING_S_MAX
        while True:
            try:
                return self._opened()
            except StoreError as error:
                # Another thread may be closing it: its last reference is gone, and LMDB is not done yet.
                closing = "already open in this process" in str(error) and self._is_ours_alone()
                if not closing or time.monotonic() > give_up_s:
                    raise
            time.sleep(_GROW_PAUSE_S)

    def _is_ours_alone(self) -> bool:
        """Whether no process that this one was forked from has the environment open."""
        return not any(os.path.realpath(self.folder) == folder for _, folder in _open)

    def _opened(self) -> Any:
        try:
            if not self.read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            # No read-ahead, because a look-up reads single rows. Reusing spare transactions halves a look-up.
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
            if not self._is_ours_alone():
                hint = (
                    "; this process was forked from one that has fetched from it: fork before the first fetch"
                )
            raise StoreError(
                f"{self.folder}: cannot be opened as an LMDB environment: {error}{hint}"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be made: {error.strerror}") from error

    def next_revision(self) -> int:
        """A number above every earlier one, in any process; durable. Raises StoreError if it cannot be written."""
        with self._writing() as transaction:
            revision = int(transaction.get(_REVISION, b"0")) + 1
            transaction.put(_REVISION, b"%d" % revision)
        return revision

    def note(self, name: str) -> bytes | None:
        """A small record beside the rows, None if there is none. Raises StoreError if it cannot be read."""
        wire = self.wire()
        try:
            return wire.read([_NOTE + name.encode()], _grown_by())[0]
        except Unavailable as error:
            raise StoreError(f"{self.folder}: cannot be read: {error}") from error

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Write rows and notes as `OnlineStore.write` says, in one durable transaction: all of them or none."""
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

    def write_next(
        self, make: Callable[[int], Sequence[tuple[bytes, bytes]]], ttl_ns: int | None
    ) -> tuple[int, int, int, bytes | None]:
        """As `OnlineStore.write_next`, in one durable transaction, because each waits for the disk."""
        try:
            with self._writing() as transaction:
                revision = int(transaction.get(_REVISION, b"0")) + 1
                transaction.put(_REVISION, b"%d" % revision)
                counts = _put(transaction, make(revision))
        except _Foreign as foreign:
            return 0, 0, 0, foreign.key
        return counts[0], counts[1], counts[2], None

    @contextmanager
    def held(self) -> Iterator[Any]:
        """Keep the environment open, because opening it takes longer than a small write."""
        environment = self.environment
        yield environment

    def note_key(self, name: str) -> bytes:
        """The key that a note is read by."""
        return _NOTE + name.encode()

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view, in the order of the keys, as of one moment."""
        return iter(self._range(self.prefix(view)))

    def views(self) -> list[str]:
        """The names of the views that were ever written, sorted. Raises StoreError if the store cannot be read."""
        return sorted(key[len(_SCHEMA) :].decode() for key, _ in self._range(_SCHEMA))

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """As `OnlineStore.erase` says, in one durable transaction. The bytes stay in free pages of the file until they
        are written over."""
        with self._writing() as transaction:
            for key, row in rows.items():
                if row is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, row)
            with transaction.cursor() as cursor:
                # Keys after the log's begin with another byte.
                last = (cursor.set_range(_LOG + b"\xff") and cursor.prev()) or (
                    not cursor.key() and cursor.last()
                )
                at = int(cursor.key()[len(_LOG) :]) + 1 if last and cursor.key().startswith(_LOG) else 0
            transaction.put(_LOG + b"%020d" % at, entry)

    def log(self) -> list[bytes]:
        """The entries that `erase` added, oldest first. Raises StoreError if the store cannot be read."""
        return [entry for _, entry in self._range(_LOG)]

    def _range(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every key that begins so, with its value, as of one moment."""
        wire = self.wire()
        try:
            return wire.range(prefix, _grown_by())
        except Unavailable as error:
            raise StoreError(f"{self.folder}: cannot be read: {error}") from error

    def _writing(self) -> _Writing:
        return _Writing(self)


def _grown_by() -> int:
    """The point of `time.monotonic_ns` until which a call that has no deadline waits for the environment to grow."""
    return time.monotonic_ns() + int(GROW_S_MAX * 1e9)


class _Foreign(Exception):
    """A key that holds no row of a feature view. Raising it ends the transaction."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


def _put(transaction: Any, pairs: Sequence[tuple[bytes, bytes]]) -> list[int]:
    """Put the newer rows. Returns the numbers of rows written, stored already and older."""
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
    """A write transaction that raises StoreError; if anything goes wrong, nothing of it is written."""

    def __init__(self, store: LMDBOnline) -> None:
        self.store = store

    def __enter__(self) -> Any:
        store = self.store
        if store.read_only:
            raise StoreError(f"{store.folder}: was opened with read_only=True, so it cannot be written")
        try:
            # The transaction alone does not keep the environment open.
            self.environment = store.environment
            self.gate = _gates[self.environment]
            try:
                self.transaction = self._begun()
            except store._lmdb.MapResizedError:
                self.gate.grow(0, _grown_by())
                self.transaction = self._begun()
        except (TimeoutError, store._lmdb.Error) as error:
            raise StoreError(f"{store.folder}: cannot be written: {error}") from error
        return self.transaction

    def _begun(self) -> Any:
        self.gate.enter_writing(_grown_by())
        try:
            return self.environment.begin(write=True)
        except BaseException:
            self.gate.leave_writing()
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._ended(kind, error)
        finally:
            self.gate.leave_writing()

    def _ended(self, kind: Any, error: Any) -> None:
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
                f"{store.folder}: cannot be written: {error}; no row of this batch was written"
            ) from error


class LMDBWire:
    """Read rows in place, on the caller's thread. A read waits for no other process, so it needs no deadline."""

    blocking = False

    def __init__(self, store: LMDBOnline) -> None:
        self._store = store
        self._error = store._lmdb.Error
        self._grew = store._lmdb.MapResizedError
        self._environment: Any = None
        self._gate: Any = None
        self._pid = 0

    def range(self, prefix: bytes, deadline_ns: int) -> list[tuple[bytes, bytes]]:
        """Every key that begins so, with its value. Raises Unavailable if the store cannot be read."""
        self.read([], deadline_ns)
        found = []
        self._gate.enter(deadline_ns)
        try:
            with self._environment.begin() as transaction, transaction.cursor() as cursor:
                there = cursor.set_range(prefix)
                while there and (key := cursor.key()).startswith(prefix):
                    found.append((key, cursor.value()))
                    there = cursor.next()
        except self._error as error:
            raise Unavailable("store_down", str(error)) from None
        finally:
            self._gate.reading.pop()
        return found

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key, None where there is none. Raises Unavailable if the store cannot be read."""
        try:
            if self._pid != os.getpid():
                self._environment = self._store.environment
                self._gate = _gates[self._environment]
                self._pid = os.getpid()
            try:
                return self._rows(keys, deadline_ns)
            except self._grew:
                self._gate.grow(0, deadline_ns)
                return self._rows(keys, deadline_ns)
        except (self._error, StoreError) as error:
            raise Unavailable("store_down", str(error)) from None
        except TimeoutError as error:
            raise Unavailable("timeout", str(error)) from None

    # Hot: once per request, so it enters the gate without a call unless the gate is closed.
    def _rows(self, keys: list[bytes], deadline_ns: int) -> list[bytes | None]:
        gate = self._gate
        gate.reading.append(None)
        if gate.closed:
            gate.reading.pop()
            gate.enter(deadline_ns)
        try:
            with self._environment.begin() as transaction:
                return list(map(transaction.get, keys))
        finally:
            gate.reading.pop()

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read`, which takes microseconds, so the event loop may wait for it."""
        return self.read(keys, deadline_ns)

    def close(self) -> None:
        """Do nothing, because the stores of this process share the environment."""
