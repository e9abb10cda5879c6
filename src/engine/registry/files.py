"""The registry's blobs: files named by their sha256. After a crash a blob is whole or absent.

A blob is written to a temporary file in the same folder, synced and renamed, and the folder is synced. Only then may
the index name it. Reading follows no links, takes only a plain file with one name and the recorded size, and checks the
digest before any parser sees a byte. All of it goes through one descriptor of the folder (`dir_fd`), so nobody can
exchange the folder in between; that is why `engine._common.durable`, which goes by paths, is not used here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.errors import RegistryError
from engine.registry.versions import DIGEST

BLOB_BYTES_MAX = 2**31
PART = ".part"
HASHED_BESIDE_BYTES = 1 << 18
LOCK_S_MAX = 30.0
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and register again",
    errno.EDQUOT: "the quota of the disk is used up; free some space and register again",
    errno.EFBIG: "the file may not grow that large (ulimit -f)",
    errno.EROFS: "the folder is read-only: this registry can be read, not changed",
    errno.EACCES: "no permission; the registry's folder belongs to another user",
    errno.EPERM: "no permission; the registry's folder belongs to another user",
    errno.ELOOP: "it is a link, and links are not followed",
    errno.ENOENT: "it is missing",
}


def explained(doing: str, error: OSError) -> RegistryError:
    """Return a RegistryError for an error of the operating system.

    Args:
        doing: the subject of the message.
    """
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return RegistryError(f"{doing}: {reason}")


class Blobs:
    """The blobs of one registry folder. Thread-safe: every call opens the folder anew."""

    def __init__(self, root: Path, *, create: bool) -> None:
        self.root = root
        self.folder = root / "blobs"
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            with self._opened():
                pass
        except OSError as error:
            raise explained(f"registry {root}", error) from None

    def put(self, contents: Sequence[bytes]) -> list[str]:
        """Store blobs, and return their digests. Durable on return. Hold `shared()` until the index names them.

        A blob that exists already is read back, and replaced if it is damaged. A large one is replaced unread.

        Raises:
            RegistryError: a blob is too large, the disk is full, or the folder is read-only.
        """
        if (size := max(map(len, contents), default=0)) > BLOB_BYTES_MAX:
            raise RegistryError(f"an artifact may have {BLOB_BYTES_MAX:,} bytes, got {size:,}")
        with self._opened() as folder:
            try:
                digests = [_put(folder, content) for content in contents]
                # Also if every blob existed: its writer may have died between rename and sync.
                os.fsync(folder)
            except OSError as error:
                raise explained(f"writing to the registry {self.root}", error) from None
        return digests

    def get(self, digest: str, size: int) -> bytes:
        """Return the bytes of a blob, checked against its digest.

        Raises:
            RegistryError: it is missing, a link, no plain file, of another size, or of another content.
        """
        if not DIGEST.fullmatch(digest):
            raise RegistryError(f"expected a sha256 of 64 hex digits, got {digest!r:.80}")
        with self._opened() as folder:
            try:
                content = _read(folder, digest, size)
            except OSError as error:
                raise explained(f"artifact {digest[:12]} in {self.folder}", error) from None
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise RegistryError(
                f"artifact {digest[:12]} in {self.folder}: the content is not what was registered, its sha256 is "
                f"{found[:12]}…; register the version again, or put the file back from a copy"
            )
        return content

    def listed(self) -> Iterator[tuple[str, int]]:
        """Yield (name, size in bytes) of every file in the folder: blobs, temporary files and foreign files."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False).st_size

    def remove(self, names: Sequence[str]) -> None:
        """Remove files by name. Hold `alone()`, because a writer may be about to register a blob."""
        with self._opened() as folder:
            try:
                for name in names:
                    os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            except OSError as error:
                raise explained(f"removing from the registry {self.root}", error) from None

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock that writers share, while the index does not yet name their blobs."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock alone: no writer is at work.

        The kernel frees the locks of a killed process. So under this lock every blob that the index does not name is an
        orphan; no guess by its age is needed.
        """
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        try:
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise explained(f"locking the registry {self.root}", error) from None
        try:
            try:
                lock_within(LOCK_S_MAX, lock, kind)
            except BlockingIOError:
                raise RegistryError(
                    f"registry {self.root}: another process has held its lock for {LOCK_S_MAX:g} s"
                ) from None
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise explained(f"registry folder {self.folder}", error) from None
        try:
            yield folder
        finally:
            os.close(folder)


def lock_within(patience_s: float, file: int, kind: int) -> None:
    """Lock a file by flock. Raises BlockingIOError if others hold it for longer than `patience_s`."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.005)


def _put(folder: int, content: bytes) -> str:
    """Store one blob. The caller syncs the folder."""
    digest = _digest_beside(content)
    # A large blob is rarely registered twice, so it is written while its digest is still being computed.
    if len(content) < HASHED_BESIDE_BYTES and _is_whole(folder, digest(), len(content)):
        return digest()
    part = f"{os.getpid()}.{secrets.token_hex(8)}{PART}"
    try:
        _write(folder, part, content)
        os.rename(part, digest(), src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    return digest()


def _write(folder: int, name: str, content: bytes) -> None:
    file = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=folder
    )
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def _digest_beside(content: bytes) -> Callable[[], str]:
    """Start to hash a large content on another thread: hashing a megabyte takes as long as writing and syncing it.

    Returns:
        A function that waits for the sha256 and returns it in hex.
    """
    found: list[str] = []

    def work() -> None:
        found.append(hashlib.sha256(content).hexdigest())

    if len(content) < HASHED_BESIDE_BYTES:
        work()
        return lambda: found[0]
    thread = threading.Thread(target=work, name="engine-sha256")
    thread.start()

    def wait() -> str:
        thread.join()
        return found[0]

    return wait


def _read(folder: int, digest: str, size: int) -> bytes:
    # O_NONBLOCK: opening a pipe must not wait for its other end.
    file = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(file, "rb", buffering=0) as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise RegistryError(f"artifact {digest[:12]}: expected a plain file")
        if found.st_nlink != 1:
            raise RegistryError(
                f"artifact {digest[:12]}: the file has {found.st_nlink} names (hard links), so another user may write "
                f"to it; copy the registry with cp -r, not with cp -l"
            )
        if found.st_size != size:
            raise RegistryError(
                f"artifact {digest[:12]}: expected the {size:,} bytes that were registered, got {found.st_size:,}"
            )
        parts = []
        while part := opened.read(1 << 24):
            parts.append(part)
        return b"".join(parts)


def _is_whole(folder: int, digest: str, size: int) -> bool:
    try:
        return hashlib.sha256(_read(folder, digest, size)).hexdigest() == digest
    except (OSError, RegistryError):
        return False
