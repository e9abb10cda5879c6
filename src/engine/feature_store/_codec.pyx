# The rows of a feature view and the way back into a request. csrc/feature_store/codec.hpp lays out a row; here are the
# Python values that go in and come out, the stored keys of entities, and the merge of rows into requests.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_SetItem, PyDict_Update
from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport PyLong_CheckExact, PyLong_FromLongLong
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import hashlib
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import numpy as np

cimport numpy as cnp

from engine._common.arguments import shown
from engine.errors import InputError

cnp.import_array()

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "<string_view>" nogil:
    cdef cppclass string_view "std::string_view":
        string_view() noexcept
        string_view(const char* data, size_t size) noexcept

cdef extern from "<span>" nogil:
    cdef cppclass tag_span "std::span<const char, engine::feature_store::TAG_BYTES>":
        tag_span(const char* data, size_t size) noexcept
    cdef cppclass kind_span "std::span<const engine::feature_store::Kind>":
        kind_span(const Kind* data, size_t size) noexcept
    cdef cppclass cell_span "std::span<const engine::feature_store::Cell>":
        cell_span(const Cell* data, size_t size) noexcept

cdef extern from "feature_store/codec.hpp" namespace "engine::feature_store" nogil:
    enum class Kind(uint8_t):
        BOOL
        INT
        FLOAT
        TEXT
        TIME
    enum class Outcome(int):
        FOUND
        NOT_FOUND
        EXPIRED
        FOREIGN
        SCHEMA
        NULL_KEY
    enum class Order(int):
        pass
    size_t TAG_BYTES
    size_t COLUMNS_MAX
    uint64_t TEXT_BYTES_MAX

    cdef struct Head:
        int64_t event_ns
        int64_t created_ns
        cbool has_created
        uint64_t revision

    cdef cppclass Cell:
        const char* text  # borrowed
        uint64_t bits  # the value's 8 bytes, or the length of the text
        cbool null
        int64_t whole() noexcept
        double number() noexcept

    cdef cppclass CoreLayout "engine::feature_store::Layout":
        CoreLayout() noexcept
        CoreLayout(tag_span tag, kind_span kinds) noexcept
        size_t columns() noexcept
        Kind kind(size_t column) noexcept
        size_t base() noexcept
        size_t text_bytes(cell_span cells) noexcept
        void write(const Head& head, cell_span cells, char* out) noexcept
        Outcome check(string_view bytes) noexcept
        cbool read(size_t column, string_view row, Cell& cell) noexcept

    cbool is_row(string_view bytes) noexcept
    Head head_of(string_view row) noexcept
    cbool is_expired(string_view row, int64_t now_ns, int64_t ttl_ns) noexcept
    Order compare(string_view row, string_view stored) noexcept

MAGIC = b"EFB\x01"
FLOAT_KEY_MAX = 2.0**53
KINDS = ("bool", "int", "float", "text", "time")
# A list of floats is stored as a text is: its bytes, 8 a float.
LIST = "list"
# The outcomes of a look-up, as `OnlineFeatures.stats` counts them; in the order of Outcome.
REASONS = ("found", "not_found", "expired", "foreign", "schema", "null_key")

cdef enum:
    KEY_BYTES_MAX = 480
    UNKNOWN_MAX = 64
    PARTLY = 100  # besides the values of Outcome: found, in a row without some of the features

cdef object EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The key of an entity whose key value is missing: no store holds it.
NO_KEY = b"\x00null"
cdef bytes _NO_KEY = NO_KEY


cdef bytes _key(bytes prefix, tuple texts):
    """The stored key of an entity. Different entities have different keys: all parts but the last say their length."""
    cdef Py_ssize_t i, last = len(texts) - 1
    cdef bytes tail = texts[last]
    if last > 0:
        tail = b"".join([b"%d:%s" % (len(texts[i]), texts[i]) for i in range(last)]) + tail
    # LMDB takes 511 bytes, so a longer key is shortened to a digest. A key that looks shortened is shortened too.
    if len(prefix) + len(tail) > KEY_BYTES_MAX or tail.startswith(b"\x01#"):
        tail = b"\x01#" + hashlib.sha256(tail).hexdigest().encode()
    return prefix + tail


def keys_of(bytes prefix, columns):
    """The stored keys of many entities, as a list of bytes.

    Args:
        prefix: the view's, as `OnlineStore.prefix` gives it.
        columns: for each key column a list of int, str or bytes, equally long.
    """
    cdef list keys = []
    if len(columns) == 1:
        for value in columns[0]:
            keys.append(_key(prefix, (_text_of(value),)))
        return keys
    for values in zip(*columns):
        keys.append(_key(prefix, tuple([_text_of(value) for value in values])))
    return keys


cdef bytes _text_of(object value):
    return <bytes>value if PyBytes_CheckExact(value) else str(value).encode()


cdef string_view _view(bytes blob) noexcept:
    return string_view(PyBytes_AS_STRING(blob), <size_t>PyBytes_GET_SIZE(blob))


cdef class Layout:
    """The layout of one view's stored rows. Immutable.

    Attributes:
        tag: 8 bytes that name the schema.
        kinds: the kind of each column, from KINDS, or LIST.

    Args:
        tag: 8 bytes that name the schema.
        kinds: the kind of each column, from KINDS, or LIST; 1 to 1,024 of them.

    Raises:
        ValueError: a tag of another length, an unknown kind, or a number of columns out of range.
    """
    cdef readonly bytes tag
    cdef readonly tuple kinds
    cdef CoreLayout core
    cdef vector[cbool] lists  # whether each column holds lists

    def __init__(self, bytes tag, kinds):
        self.kinds = tuple(kinds)
        if len(tag) != <Py_ssize_t>TAG_BYTES or not 0 < len(self.kinds) <= <Py_ssize_t>COLUMNS_MAX:
            raise ValueError("a layout has a tag of 8 bytes and 1 to 1,024 columns")
        cdef vector[Kind] codes
        for kind in self.kinds:
            if kind not in KINDS and kind != LIST:
                raise ValueError(f"a kind is one of {', '.join(KINDS)}, got {kind!r}; or it is {LIST}")
            self.lists.push_back(kind == LIST)
            codes.push_back(<Kind><uint8_t>KINDS.index("text" if kind == LIST else kind))
        self.tag = tag
        self.core = CoreLayout(tag_span(PyBytes_AS_STRING(tag), TAG_BYTES), kind_span(codes.data(), codes.size()))

    def pack(self, event_ns, created_ns, uint64_t revision, columns, nulls):
        """The rows as a list of bytes.

        Args:
            event_ns: int64 [n], nanoseconds since 1970.
            created_ns: int64 [n], the same; None if the source has no created time.
            revision: of the materialisation, 0 to 2^64 - 1.
            columns: for each column int64 or float64 [n], or for text a list of n str, or for lists a list of n bytes
                objects, 8 bytes a float.
            nulls: for each column uint8 [n], not zero where the value is null; None for no nulls.

        Raises:
            ValueError: columns of different lengths, or texts of more than 4 GiB in one row.
        """
        cdef cnp.ndarray event = np.ascontiguousarray(event_ns, dtype=np.int64)
        cdef cnp.ndarray created = np.ascontiguousarray(() if created_ns is None else created_ns, dtype=np.int64)
        cdef Py_ssize_t rows = event.shape[0], row, i, length, n = <Py_ssize_t>self.core.columns()
        cdef Head head
        cdef vector[const char*] values
        cdef vector[const uint8_t*] masks
        cdef vector[Cell] cells
        cdef list kept = [], packed = []
        cdef bytes blob
        cdef size_t text_bytes
        _require_rows(event, rows)
        head.has_created = created_ns is not None
        head.created_ns = 0
        head.revision = revision
        if head.has_created:
            _require_rows(created, rows)
        if len(columns) != n or len(nulls) != n:
            raise ValueError(f"expected {n} columns and as many masks, got {len(columns)} and {len(nulls)}")
        values.resize(n)
        masks.resize(n)
        cells.resize(n)
        for i in range(n):
            if self.core.kind(i) != Kind.TEXT:
                array = np.ascontiguousarray(
                    columns[i], dtype=np.float64 if self.core.kind(i) == Kind.FLOAT else np.int64
                )
                _require_rows(array, rows)
                kept.append(array)
                values[i] = <const char*>cnp.PyArray_DATA(array)
            elif len(columns[i]) != rows:
                raise ValueError("columns are equally long")
            if nulls[i] is not None:
                array = np.ascontiguousarray(nulls[i], dtype=np.uint8)
                _require_rows(array, rows)
                kept.append(array)
                masks[i] = <const uint8_t*>cnp.PyArray_DATA(array)
        for row in range(rows):
            head.event_ns = (<const int64_t*>cnp.PyArray_DATA(event))[row]
            if head.has_created:
                head.created_ns = (<const int64_t*>cnp.PyArray_DATA(created))[row]
            for i in range(n):
                cells[i].null = masks[i] is not NULL and masks[i][row] != 0
                if cells[i].null:
                    continue
                if self.lists[i]:
                    blob = columns[i][row]
                    cells[i].text = PyBytes_AS_STRING(blob)
                    cells[i].bits = <uint64_t>PyBytes_GET_SIZE(blob)
                elif values[i] is NULL:
                    cells[i].text = PyUnicode_AsUTF8AndSize(columns[i][row], &length)
                    cells[i].bits = <uint64_t>length
                else:
                    memcpy(&cells[i].bits, values[i] + 8 * row, 8)
            text_bytes = self.core.text_bytes(cell_span(cells.data(), n))
            if text_bytes > TEXT_BYTES_MAX:
                raise ValueError("the texts of one row take more than 4 GiB")
            blob = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(self.core.base() + text_bytes))
            self.core.write(head, cell_span(cells.data(), n), PyBytes_AS_STRING(blob))
            packed.append(blob)
        return packed

    cdef object value(self, size_t column, string_view row):
        """A column of a checked row, None for null. Raises ValueError if it is no value: a text beyond the row or not
        UTF-8, or an instant that Python has no datetime for."""
        cdef Cell cell
        if not self.core.read(column, row, cell):
            raise ValueError("a text beyond the end of its row")
        if cell.null:
            return None
        cdef Kind kind = self.core.kind(column)
        if kind == Kind.FLOAT:
            return PyFloat_FromDouble(cell.number())
        if self.lists[column]:
            if cell.bits % 8:
                raise ValueError("a list that ends within a float")
            return np.frombuffer(PyBytes_FromStringAndSize(cell.text, <Py_ssize_t>cell.bits), np.float64).tolist()
        if kind == Kind.TEXT:
            return PyUnicode_DecodeUTF8(cell.text, <Py_ssize_t>cell.bits, NULL)
        if kind == Kind.INT:
            return PyLong_FromLongLong(cell.whole())
        if kind == Kind.BOOL:
            return cell.whole() != 0
        try:
            return EPOCH + timedelta(microseconds=cell.whole())
        except OverflowError:
            raise ValueError("a year beyond 1 to 9999") from None

    def unpack(self, bytes blob):
        """(event_ns, created_ns or None, revision, values) of a stored row.

        Bytes that cannot be read give a str instead, the reason out of REASONS.
        """
        cdef string_view row = _view(blob)
        cdef Outcome outcome = self.core.check(row)
        if outcome != Outcome.FOUND:
            return REASONS[<int>outcome]
        cdef Head head = head_of(row)
        try:
            values = [self.value(i, row) for i in range(<Py_ssize_t>self.core.columns())]
        except ValueError:
            return REASONS[<int>Outcome.FOREIGN]
        return head.event_ns, head.created_ns if head.has_created else None, head.revision, values


cdef _require_rows(array, Py_ssize_t rows):
    if array.ndim != 1 or array.shape[0] != rows:
        raise ValueError("columns are equally long")


def supersedes(bytes new, bytes old):
    """The outcome of writing the row `new` over the stored bytes `old`.

    1: write it. 0: it is the stored row. -1: it is older. -2: `old` is no row and must not be overwritten.

    Raises:
        ValueError: `new` is no row.
    """
    cdef string_view row = _view(new)
    if not is_row(row):
        raise ValueError("the new bytes are no row")
    return <int>compare(row, _view(old))


cdef class Reader:
    """Read one view's rows into requests. Thread-safe under the GIL.

    Attributes:
        names: the full names of the features that are read.
        unknown: the tags of rows that were met and are of no layout known here.

    Args:
        prefix: the beginning of the stored keys.
        keys: pairs of the request's key name and its kind, "int", "text" or "bytes".
        layout: the layout of the rows.
        wanted: pairs of a feature's full name and its column in the layout.
        ttl_ns: a row older than this is expired; None for never.
    """
    cdef bytes prefix
    cdef tuple key_names
    cdef list key_kinds
    cdef Layout layout
    cdef readonly tuple names
    cdef vector[size_t] columns
    cdef dict others  # tag -> (layout, column of each name or None, names without a column)
    cdef readonly set unknown
    cdef dict blank  # held by the first reader for all of them: see _blank
    cdef int64_t ttl_ns
    cdef str one_key
    cdef bint one_text

    def __init__(self, bytes prefix, keys, Layout layout, wanted, ttl_ns):
        self.prefix = prefix
        self.key_names = tuple([name for name, _ in keys])
        self.key_kinds = [kind for _, kind in keys]
        self.layout = layout
        self.names = tuple([name for name, _ in wanted])
        self.columns = [column for _, column in wanted]
        self.ttl_ns = -1 if ttl_ns is None else ttl_ns
        self.one_text = self.key_kinds == ["text"]
        self.one_key = self.key_names[0]
        self.others = {}
        self.unknown = set()

    def also(self, Layout layout, columns):
        """Read rows of another layout too.

        Args:
            layout: the layout.
            columns: for each of `names` its column there, None if it has none: such a feature is then missing.
        """
        absent = tuple([name for name, column in zip(self.names, columns) if column is None])
        self.others[layout.tag] = (layout, tuple(columns), absent)
        self.unknown.discard(layout.tag)

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
                    # any_key raises the error that names the key.
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
        for name, kind in zip(self.key_names, self.key_kinds):
            if name not in request:
                # A request that brings all of the view's features needs no entity key.
                if all(feature in request for feature in self.names):
                    return _NO_KEY
                raise InputError(f"the request has no entity key {name!r}, which features {', '.join(self.names[:3])} "
                                 f"are looked up by; it has: {', '.join(map(str, list(request)[:20]))}")
            text = _key_text(request[name], kind, name)
            if text is None:
                return _NO_KEY
            texts.append(text)
        return _key(self.prefix, tuple(texts))

    # Hot: once per view and request.
    cdef int read(self, object blob, dict out, dict request, bint overlaps, int64_t now_ns) except -1:
        """Put the wanted features into `out` and return an Outcome. A feature that the request brings stays; it brings
        one only if it `overlaps`."""
        cdef Py_ssize_t i
        if blob is None:
            return <int>Outcome.NOT_FOUND
        if not PyBytes_CheckExact(blob):
            return <int>Outcome.FOREIGN
        cdef string_view row = _view(<bytes>blob)
        cdef Outcome outcome = self.layout.core.check(row)
        if outcome == Outcome.SCHEMA:
            return self.read_other(<bytes>blob, row, out, request, now_ns)
        if outcome != Outcome.FOUND:
            return <int>outcome
        if self.ttl_ns >= 0 and is_expired(row, now_ns, self.ttl_ns):
            return <int>Outcome.EXPIRED
        try:
            for i in range(<Py_ssize_t>self.columns.size()):
                name = self.names[i]
                if not overlaps or PyDict_GetItem(request, name) is NULL:
                    PyDict_SetItem(out, name, self.layout.value(self.columns[i], row))
        except ValueError:
            return <int>Outcome.FOREIGN
        return <int>Outcome.FOUND

    cdef int read_other(self, bytes blob, string_view row, dict out, dict request, int64_t now_ns) except -1:
        """`read` of a row of another schema. PARTLY if it lacks a wanted feature."""
        cdef Layout layout
        tag = blob[len(MAGIC) : len(MAGIC) + TAG_BYTES]
        known = self.others.get(tag)
        if known is None:
            if len(self.unknown) < UNKNOWN_MAX:
                self.unknown.add(tag)
            return <int>Outcome.SCHEMA
        layout, columns, absent = known
        cdef Outcome outcome = layout.core.check(row)
        if outcome != Outcome.FOUND:
            return <int>outcome
        if self.ttl_ns >= 0 and is_expired(row, now_ns, self.ttl_ns):
            return <int>Outcome.EXPIRED
        try:
            for name, column in zip(self.names, columns):
                if column is not None and name not in request:
                    out[name] = layout.value(<size_t>column, row)
        except ValueError:
            return <int>Outcome.FOREIGN
        return PARTLY if absent else <int>Outcome.FOUND

    cdef tuple absent(self, bytes blob, dict request):
        """The names of the wanted features that a row of another schema lacks and the request does not bring."""
        names = self.others[blob[len(MAGIC) : len(MAGIC) + TAG_BYTES]][2]
        return tuple([name for name in names if name not in request])

    cdef tuple missing(self, dict out, dict request):
        """The names of the wanted features that the request does not bring. They become None in `out`."""
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


cdef bytes _key_text(object value, str kind, name):
    """One part of a stored key, None for a missing value. Raises InputError for a value of another type."""
    if (value is None or type(value).__name__ in ("NAType", "NaTType")
            or (isinstance(value, (float, np.floating)) and value != value)):
        return None
    if kind == "int":
        if PyLong_CheckExact(value):
            return b"%d" % value
        if isinstance(value, (float, np.floating)) and value == value // 1:
            # A greater float stands for many whole numbers.
            if abs(value) > FLOAT_KEY_MAX:
                raise InputError(f"entity key {name!r}: a float holds whole numbers up to 2^53 exactly, got "
                                 f"{shown(value)}; give it as an int")
            return b"%d" % int(value)
        if isinstance(value, (np.integer, Decimal)) and value == int(value):
            return b"%d" % int(value)
        raise InputError(f"entity key {name!r}: expected a whole number, got {shown(value)}")
    if kind == "bytes":
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if not isinstance(value, str):
            raise InputError(f"entity key {name!r}: expected bytes, got {shown(value)}")
    elif isinstance(value, UUID):
        return str(value).encode()
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
    """The stored keys of requests, request by request and reader by reader, as a flat list of bytes.

    Args:
        readers: one a view.
        requests: mappings with the views' entity keys.

    Raises:
        InputError: a request is no mapping, or an entity key is absent or of another type.
    """
    cdef list keys = []
    cdef Reader reader
    cdef dict plain
    for request in requests:
        plain = _plain(request)
        for reader in readers:
            keys.append(reader.key(plain))
    return keys


# A dict of every wanted feature as None, with room for a request's own inputs: copying it costs less than growing a
# dict.
cdef dict _blank(tuple readers):
    cdef Reader first = <Reader>readers[0]
    if first.blank is None:
        blank = {name: None for reader in readers for name in (<Reader>reader).names}
        # A copy keeps the free room only if the dict is two thirds full or more.
        extra = [f"\0{number}" for number in range(len(blank) // 2)]
        blank.update(dict.fromkeys(extra))
        for name in extra:
            del blank[name]
        first.blank = blank
    return first.blank


def merge(tuple readers, requests, list keys, blobs, int64_t now_ns, list counts):
    """For each request a pair: a new dict of the request with its online features, and the names of the missing ones.

    Args:
        readers: one a view.
        requests: as given to `request_keys`.
        keys: as `request_keys` returned them.
        blobs: the stored row of each key, None where there is none. None for all if the store did not answer: then
            every feature is missing, and nothing is counted.
        now_ns: the time for TTLs, nanoseconds since 1970.
        counts: a list with one count for each of REASONS, which is added to.
    """
    cdef list pairs = []
    cdef Reader reader
    cdef Py_ssize_t at = 0
    cdef int reason = <int>Outcome.NOT_FOUND
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
                if keys[at] is _NO_KEY:
                    reason = <int>Outcome.NULL_KEY
                else:
                    reason = reader.read(blobs[at], out, plain, overlaps, now_ns)
                if reason == PARTLY:
                    reason = <int>Outcome.FOUND
                    missing += reader.absent(blobs[at], plain)
                counts[reason] += 1
            if down or reason != <int>Outcome.FOUND:
                missing += reader.missing(out, plain)
            at += 1
        pairs.append((out, missing))
    return pairs
