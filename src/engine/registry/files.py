"""The registry's files: blobs named by their sha256, written so that a crash leaves either all of one or none.

A blob is written to a temporary file beside the others, synced, renamed, and the folder synced; only then may the index
speak of it. What is read is opened without following links, must be a plain file with one name, of the size that was
recorded, and has its digest checked before anybody parses it.
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
    errno.EACCES: "no permission; the registry's folder belongs to somebody else",
    errno.EPERM: "no permission; the registry's folder belongs to somebody else",
    errno.ELOOP: "it is a link, and links are not followed",
    errno.ENOENT: "it is missing",
}


def explained(doing: str, error: OSError) -> RegistryError:
    """The named error for what the operating system said."""
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return RegistryError(f"{doing}: {reason}")


class Blobs:
    """The blobs of one registry folder. Thread-safe: every call opens what it needs."""

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
        """Stores blobs; durable on return, which is their digests. Hold `shared()` until the index knows them.

        One that is there already is read back first and replaced where it has been damaged; a large one is replaced.

        Raises:
            RegistryError: too large, a full disk, a read-only folder.
        """
        if (size := max(map(len, contents), default=0)) > BLOB_BYTES_MAX:
            raise RegistryError(f"an artifact may have {BLOB_BYTES_MAX:,} bytes, got {size:,}")
        with self._opened() as folder:
            try:
                digests = [_put(folder, content) for content in contents]
                # Also where everything was there: its writer may have died between the rename and this.
                os.fsync(folder)
            except OSError as error:
                raise explained(f"writing to the registry {self.root}", error) from None
        return digests

    def get(self, digest: str, size: int) -> bytes:
        """The bytes of a blob, which have the digest asked for.

        Raises:
            RegistryError: missing, a link, no plain file, of another size, or not what was registered.
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
        """Names and sizes of what lies in the folder: blobs, temporary files, and what belongs to nobody."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False).st_size

    def remove(self, names: Sequence[str]) -> None:
        """Removes files by name. Hold `alone()`: somebody may be about to register what nothing refers to yet."""
        with self._opened() as folder:
            try:
                for name in names:
                    os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            except OSError as error:
                raise explained(f"removing from the registry {self.root}", error) from None

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Held while blobs are written that the index does not know yet. Any number may hold it."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Held while nobody else may be writing. The kernel gives up the locks of a process that was killed, so under
        this lock whatever the index does not know is rubbish, with no guess by its age."""
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
    """Locks a file by flock. Raises BlockingIOError where others have held it for so long."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.005)


def _put(folder: int, content: bytes) -> str:
    """Stores one blob; the folder is still to be synced."""
    digest = _digest_beside(content)
    # A large one that is there already seldom comes again; it is replaced by its like before that is known.
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
    """Begins to hash a large content in a thread of its own: a megabyte takes as long to hash as to write and sync.

    Returns:
        What waits for the sha256, in hex.
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
    # Not blocking: opening a pipe that somebody put there must not wait for its other end.
    file = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(file, "rb", buffering=0) as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise RegistryError(f"artifact {digest[:12]}: expected a plain file")
        if found.st_nlink != 1:
            raise RegistryError(
                f"artifact {digest[:12]}: the file has {found.st_nlink} names (hard links), so others may write to it; "
                f"copy the registry with cp -r, not with cp -l"
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
