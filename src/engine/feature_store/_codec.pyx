# One row of a feature view as one string of bytes, and the way back into a request. Every stored row, in whatever store,
# has this layout; integers are little-endian unless it says otherwise:
#
#   0   4      magic, the last byte is the layout's version
#   4   8      tag: the schema the values were written under
#   12  8      event time, ns since 1970, big-endian, sign bit flipped: as bytes it sorts as the time does
#   20  8      created time, the same; zero for none
#   28  8      revision of the materialisation, big-endian
#   36  b      null bits, one a column, b = (columns + 7) / 8
#   36+b 8n    values: int64 (whole numbers, booleans, microseconds since 1970), float64, or uint32 offset and length of
#              a text in what follows
#   ...        texts, UTF-8
#
# Bytes 12 to 36 are what two rows of one key are compared by. Redis compares the same bytes in its own script.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetItem, PyDict_Update
from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport PyLong_CheckExact, PyLong_FromLongLong
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libcpp.vector cimport vector

import hashlib
from datetime import datetime, timedelta, timezone

import numpy as np

cimport numpy as cnp

from engine._common.arguments import shown
from engine.errors import InputError

cnp.import_array()

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t engine_be64(uint64_t v) { return __builtin_bswap64(v); }
    """
    uint64_t engine_be64(uint64_t value) noexcept

MAGIC = b"EFB\x01"
KINDS = ("bool", "int", "float", "text", "time")
# What became of a look-up, as counted by `OnlineFeatures.stats`.
REASONS = ("found", "not_found", "expired", "foreign", "schema", "null_key")

cdef enum:
    FOUND, NOT_FOUND, EXPIRED, FOREIGN, SCHEMA, NULL_KEY
cdef enum:
    BOOL, INT, FLOAT, TEXT, TIME
cdef enum:
    TAG_AT = 4, ORDER_AT = 12, HEAD = 36, KEY_BYTES_MAX = 480

cdef uint64_t SIGN = 1ull << 63
cdef object EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The key of an entity whose key value is missing: no store holds it.
NO_KEY = b"\x00null"
cdef bytes _NO_KEY = NO_KEY
cdef const char* _MAGIC = b"EFB\x01"


cdef bytes _key(bytes prefix, tuple texts):
    """The stored key of an entity. Different entities have different keys: all parts but the last say their length."""
    cdef Py_ssize_t i, last = len(texts) - 1
    cdef bytes tail = texts[last]
    if last > 0:
        tail = b"".join([b"%d:%s" % (len(texts[i]), texts[i]) for i in range(last)]) + tail
    # LMDB takes 511 bytes. What would look like a shortened key is shortened too.
    if len(prefix) + len(tail) > KEY_BYTES_MAX or tail.startswith(b"\x01#"):
        tail = b"\x01#" + hashlib.sha256(tail).hexdigest().encode()
    return prefix + tail


def keys_of(bytes prefix, columns):
    """The stored keys of many entities. columns: for each key column a list of int or str, equally long."""
    cdef list keys = []
    if len(columns) == 1:
        for value in columns[0]:
            keys.append(_key(prefix, (str(value).encode(),)))
        return keys
    for values in zip(*columns):
        keys.append(_key(prefix, tuple([str(value).encode() for value in values])))
    return keys


cdef class Layout:
    """How the rows of one view are laid out.

    Args:
        tag: 8 bytes that name the schema.
        kinds: of each column, out of KINDS.
    """
    cdef readonly bytes tag
    cdef readonly tuple kinds
    cdef Py_ssize_t n, base, null_bytes
    cdef uint8_t[1024] codes
    cdef bint texts

    def __init__(self, bytes tag, kinds):
        self.kinds = tuple(kinds)
        self.n = len(self.kinds)
        if len(tag) != 8 or not 0 < self.n <= 1024:
            raise ValueError("a layout has a tag of 8 bytes and 1 to 1,024 columns")
        self.tag = tag
        self.null_bytes = (self.n + 7) // 8
        self.base = HEAD + self.null_bytes + 8 * self.n
        self.texts = False
        for i in range(self.n):
            self.codes[i] = KINDS.index(self.kinds[i])
            self.texts |= self.codes[i] == TEXT

    def pack(self, event_ns, created_ns, uint64_t revision, columns, nulls):
        """The rows as a list of bytes.

        event_ns: int64 [n]; created_ns: int64 [n] or None; columns: one a column, int64 or float64 [n], for text a
        list of str; nulls: one a column, uint8 [n], not zero where the value is null, or None for no nulls.
        """
        cdef cnp.ndarray event = np.ascontiguousarray(event_ns, dtype=np.int64)
        cdef cnp.ndarray created = (np.zeros(0, np.int64) if created_ns is None
                                    else np.ascontiguousarray(created_ns, dtype=np.int64))
        cdef bint has_created = created_ns is not None
        cdef Py_ssize_t rows = event.shape[0], row, i, size, at, length
        cdef const int64_t* event_at = <const int64_t*>cnp.PyArray_DATA(event)
        cdef const int64_t* created_at = <const int64_t*>cnp.PyArray_DATA(created)
        cdef const void* values[1024]
        cdef const uint8_t* masks[1024]
        cdef list kept = [], packed = []
        cdef bytes blob
        cdef char* out
        cdef const char* text
        cdef uint64_t word
        cdef uint32_t[2] extent
        for i in range(self.n):
            values[i] = NULL
            masks[i] = NULL
            if self.codes[i] != TEXT:
                array = np.ascontiguousarray(columns[i], dtype=np.float64 if self.codes[i] == FLOAT else np.int64)
                _require_rows(array, rows)
                kept.append(array)
                values[i] = cnp.PyArray_DATA(array)
            elif len(columns[i]) != rows:
                raise ValueError("columns are equally long")
            if nulls[i] is not None:
                array = np.ascontiguousarray(nulls[i], dtype=np.uint8)
                _require_rows(array, rows)
                kept.append(array)
                masks[i] = <const uint8_t*>cnp.PyArray_DATA(array)
        if has_created:
            _require_rows(created, rows)
        for row in range(rows):
            size = self.base
            if self.texts:
                for i in range(self.n):
                    if self.codes[i] == TEXT and not (masks[i] and masks[i][row]):
                        PyUnicode_AsUTF8AndSize(columns[i][row], &length)
                        size += length
            blob = PyBytes_FromStringAndSize(NULL, size)
            out = PyBytes_AS_STRING(blob)
            memcpy(out, _MAGIC, 4)
            memcpy(out + TAG_AT, PyBytes_AS_STRING(self.tag), 8)
            word = engine_be64(<uint64_t>event_at[row] ^ SIGN)
            memcpy(out + ORDER_AT, &word, 8)
            word = engine_be64(<uint64_t>created_at[row] ^ SIGN) if has_created else 0
            memcpy(out + ORDER_AT + 8, &word, 8)
            word = engine_be64(revision)
            memcpy(out + ORDER_AT + 16, &word, 8)
            memset(out + HEAD, 0, self.base - HEAD)
            at = self.base
            for i in range(self.n):
                if masks[i] and masks[i][row]:
                    out[HEAD + (i >> 3)] |= 1 << (i & 7)
                elif self.codes[i] == TEXT:
                    text = PyUnicode_AsUTF8AndSize(columns[i][row], &length)
                    extent[0] = <uint32_t>(at - self.base)
                    extent[1] = <uint32_t>length
                    memcpy(out + HEAD + self.null_bytes + 8 * i, extent, 8)
                    memcpy(out + at, text, length)
                    at += length
                else:
                    memcpy(out + HEAD + self.null_bytes + 8 * i, <const char*>values[i] + 8 * row, 8)
            packed.append(blob)
        return packed

    cdef int check(self, const char* blob, Py_ssize_t size) noexcept:
        """FOUND for a row of this layout, FOREIGN for what is no row, SCHEMA for a row of another schema."""
        if size < HEAD or memcmp(blob, _MAGIC, 4) != 0:
            return FOREIGN
        if memcmp(blob + TAG_AT, PyBytes_AS_STRING(self.tag), 8) != 0:
            return SCHEMA
        return FOUND if (size >= self.base if self.texts else size == self.base) else FOREIGN

    cdef object value(self, Py_ssize_t i, const char* blob, Py_ssize_t size):
        """Column i of a checked row, None for null. Raises ValueError for a text that is not there or no UTF-8,
        or an instant that Python has no datetime for."""
        cdef const char* at = blob + HEAD + self.null_bytes + 8 * i
        cdef int64_t whole
        cdef double number
        cdef uint32_t[2] extent
        if (<const uint8_t*>blob)[HEAD + (i >> 3)] >> (i & 7) & 1:
            return None
        if self.codes[i] == FLOAT:
            memcpy(&number, at, 8)
            return PyFloat_FromDouble(number)
        if self.codes[i] == TEXT:
            memcpy(extent, at, 8)
            if self.base + <Py_ssize_t>extent[0] + <Py_ssize_t>extent[1] > size:
                raise ValueError("a text beyond the end of its row")
            return PyUnicode_DecodeUTF8(blob + self.base + extent[0], extent[1], NULL)
        memcpy(&whole, at, 8)
        if self.codes[i] == INT:
            return PyLong_FromLongLong(whole)
        if self.codes[i] == BOOL:
            return whole != 0
        try:
            return EPOCH + timedelta(microseconds=whole)
        except OverflowError:
            raise ValueError("a year beyond 1 to 9999") from None

    def unpack(self, bytes blob):
        """(event_ns, created_ns or None, revision, values) of a stored row, or the reason, a str of REASONS, why it
        cannot be read."""
        cdef const char* data = PyBytes_AS_STRING(blob)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(blob)
        cdef int reason = self.check(data, size)
        if reason != FOUND:
            return REASONS[reason]
        cdef uint64_t[3] words
        memcpy(words, data + ORDER_AT, 24)
        created = None if words[1] == 0 else <int64_t>(engine_be64(words[1]) ^ SIGN)
        try:
            values = [self.value(i, data, size) for i in range(self.n)]
        except ValueError:
            return REASONS[FOREIGN]
        return <int64_t>(engine_be64(words[0]) ^ SIGN), created, engine_be64(words[2]), values


cdef _require_rows(array, Py_ssize_t rows):
    if array.ndim != 1 or array.shape[0] != rows:
        raise ValueError("columns are equally long")


def supersedes(bytes new, bytes old):
    """What writing the row `new` over `old` would be: 1 to write, 0 for the same row, -1 for an older one, -2 where
    `old` is not a row of ours and must not be overwritten."""
    cdef const char* a = PyBytes_AS_STRING(new)
    cdef const char* b = PyBytes_AS_STRING(old)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(new)
    if PyBytes_GET_SIZE(old) < HEAD or memcmp(b, _MAGIC, 4) != 0:
        return -2
    cdef int order = memcmp(a + ORDER_AT, b + ORDER_AT, 16)
    if order != 0:
        return 1 if order > 0 else -1
    if (size == PyBytes_GET_SIZE(old) and memcmp(a + TAG_AT, b + TAG_AT, 8) == 0
            and memcmp(a + HEAD, b + HEAD, size - HEAD) == 0):
        return 0
    # The same instants and other values: a correction, or an aggregate that late events changed.
    return 1 if memcmp(a + ORDER_AT + 16, b + ORDER_AT + 16, 8) >= 0 else -1


cdef class Reader:
    """Reads one view's rows into requests.

    Args:
        prefix: of the stored keys.
        keys: pairs of the request's key name and its kind, "int" or "text".
        layout: of the rows.
        wanted: pairs of a feature's full name and its column in the layout.
        ttl_ns: age beyond which a row is expired; None for never.
    """
    cdef bytes prefix
    cdef tuple key_names
    cdef list key_is_int
    cdef Layout layout
    cdef readonly tuple names
    cdef vector[Py_ssize_t] columns
    cdef dict blank  # of the features' first reader: see _blank
    cdef int64_t ttl_ns
    cdef str one_key
    cdef bint one_text

    def __init__(self, bytes prefix, keys, Layout layout, wanted, ttl_ns):
        self.prefix = prefix
        self.key_names = tuple([name for name, _ in keys])
        self.key_is_int = [kind == "int" for _, kind in keys]
        self.layout = layout
        self.names = tuple([name for name, _ in wanted])
        self.columns = [column for _, column in wanted]
        self.ttl_ns = -1 if ttl_ns is None else ttl_ns
        self.one_text = len(self.key_names) == 1 and not self.key_is_int[0]
        self.one_key = self.key_names[0]

    # Hot: once per view and request.
    cdef bytes key(self, dict request):
        cdef Py_ssize_t size
        cdef const char* text
        cdef void* found
        cdef bytes key
        if self.one_text:
            found = <void*>PyDict_GetItem(request, self.one_key)
            if found is not NULL and type(<object>found) is str:
                text = utf8_or_null(<object>found, &size)
                if text is NULL:
                    # The way that names the key tells what is wrong with it.
                    PyErr_Clear()
                    return self.any_key(request)
                if size > 0 and text[0] != 1 and size + PyBytes_GET_SIZE(self.prefix) <= KEY_BYTES_MAX:
                    key = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self.prefix) + size)
                    memcpy(PyBytes_AS_STRING(key), PyBytes_AS_STRING(self.prefix), PyBytes_GET_SIZE(self.prefix))
                    memcpy(PyBytes_AS_STRING(key) + PyBytes_GET_SIZE(self.prefix), text, size)
                    return key
        return self.any_key(request)

    cdef bytes any_key(self, dict request):
        cdef list texts = []
        for name, is_int in zip(self.key_names, self.key_is_int):
            if name not in request:
                # A request that brings all the view's features itself needs no entity to look them up by.
                if all(feature in request for feature in self.names):
                    return _NO_KEY
                raise InputError(f"the request has no entity key {name!r}, which features {', '.join(self.names[:3])} "
                                 f"are looked up by; it has: {', '.join(map(str, list(request)[:20]))}")
            text = _key_text(request[name], is_int, name)
            if text is None:
                return _NO_KEY
            texts.append(text)
        return _key(self.prefix, tuple(texts))

    # Hot: once per view and request.
    cdef int read(self, object blob, dict out, dict request, bint overlaps, int64_t now_ns) except -1:
        """Puts the wanted features into `out` where the request does not bring them, which it may where it `overlaps`;
        returns a reason."""
        cdef const char* data
        cdef Py_ssize_t size, i
        cdef uint64_t word
        cdef int reason
        if blob is None:
            return NOT_FOUND
        if not PyBytes_CheckExact(blob):
            return FOREIGN
        data = PyBytes_AS_STRING(blob)
        size = PyBytes_GET_SIZE(blob)
        reason = self.layout.check(data, size)
        if reason != FOUND:
            return reason
        if self.ttl_ns >= 0:
            memcpy(&word, data + ORDER_AT, 8)
            # A row ahead of this clock is not expired: the clock may be behind.
            if now_ns - <int64_t>(engine_be64(word) ^ SIGN) > self.ttl_ns:
                return EXPIRED
        try:
            for i in range(<Py_ssize_t>self.columns.size()):
                name = self.names[i]
                if not overlaps or PyDict_GetItem(request, name) is NULL:
                    PyDict_SetItem(out, name, self.layout.value(self.columns[i], data, size))
        except ValueError:
            return FOREIGN
        return FOUND

    cdef tuple missing(self, dict out, dict request):
        """Names the wanted features that neither the store nor the request brought; they become None in `out`."""
        cdef list names = []
        for name in self.names:
            if PyDict_GetItem(request, name) is NULL:
                PyDict_SetItem(out, name, None)
                names.append(name)
        return self.names if len(names) == len(self.names) else tuple(names)


cdef extern from "Python.h":
    const char* utf8_or_null "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t* size) noexcept
    void PyErr_Clear() noexcept
    # Borrowed and NULL for an absent key, which Cython's own declaration cannot say of an object.
    void* PyDict_GetItem(object mapping, object key) noexcept


cdef bytes _key_text(object value, bint is_int, name):
    if (value is None or type(value).__name__ in ("NAType", "NaTType")
            or (isinstance(value, (float, np.floating)) and value != value)):
        return None
    if is_int:
        if PyLong_CheckExact(value):
            return b"%d" % value
        if isinstance(value, np.integer) or (isinstance(value, (float, np.floating)) and value == value // 1):
            return b"%d" % int(value)
        raise InputError(f"entity key {name!r}: expected a whole number, got {shown(value)}")
    if not isinstance(value, str):
        raise InputError(f"entity key {name!r}: expected text, got {shown(value)}")
    try:
        return (<str>value).encode()
    except UnicodeEncodeError:
        raise InputError(f"entity key {name!r}: expected text that UTF-8 can encode, got {shown(value)}") from None


cdef dict _plain(object request):
    if type(request) is dict:
        return <dict>request
    try:
        return dict(request)
    except (TypeError, ValueError):
        raise InputError(f"with online features a request is a mapping, got {shown(request)}") from None


def request_keys(tuple readers, requests):
    """The stored keys of requests, request by request and reader by reader: a flat list of bytes.

    Raises InputError for an entity key that is absent or of another type.
    """
    cdef list keys = []
    cdef Reader reader
    cdef dict plain
    for request in requests:
        plain = _plain(request)
        for reader in readers:
            keys.append(reader.key(plain))
    return keys


# Every wanted feature, None, in a dict with room for a request's own inputs: copying one costs less than growing one.
cdef dict _blank(tuple readers):
    cdef Reader first = <Reader>readers[0]
    if first.blank is None:
        blank = {name: None for reader in readers for name in (<Reader>reader).names}
        # A copy keeps the room of a dict that is two thirds full or more.
        extra = [f"\0{number}" for number in range(len(blank) // 2)]
        blank.update(dict.fromkeys(extra))
        for name in extra:
            del blank[name]
        first.blank = blank
    return first.blank


def merge(tuple readers, requests, list keys, blobs, int64_t now_ns, list counts):
    """Pairs of the request with its online features and the names of the missing ones.

    keys: as `request_keys` gave them. blobs: bytes or None for each of them, or None as a whole where the store had no
    answer: then nothing is counted and every feature is missing. counts: of each of REASONS, added to.
    """
    cdef list pairs = []
    cdef Reader reader
    cdef Py_ssize_t at = 0
    cdef int reason
    cdef tuple missing
    cdef dict plain, out
    cdef bint overlaps, down = blobs is None
    cdef dict blank = _blank(readers)
    for request in requests:
        plain = _plain(request)
        out = PyDict_Copy(blank)
        PyDict_Update(out, plain)
        overlaps = len(out) != len(blank) + len(plain)
        missing = ()
        for reader in readers:
            if not down:
                reason = NULL_KEY if keys[at] is _NO_KEY else reader.read(blobs[at], out, plain, overlaps, now_ns)
                counts[reason] += 1
            if down or reason != FOUND:
                missing += reader.missing(out, plain)
            at += 1
        pairs.append((out, missing))
    return pairs
