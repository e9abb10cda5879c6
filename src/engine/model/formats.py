"""Tells the format of a model file by its content. Suffixes are ignored, because they are wrong too often."""

from __future__ import annotations

import json
import re

from engine.errors import ModelFormatError, UnsupportedModelError

LIGHTGBM, XGBOOST_JSON, XGBOOST_UBJSON, ONNX = "lightgbm", "xgboost-json", "xgboost-ubjson", "onnx"
CATBOOST, CATBOOST_BINARY, SKOPS, PICKLE, TREELITE = (
    "catboost-json",
    "catboost-cbm",
    "skops",
    "pickle",
    "treelite",
)
EXPECTED = (
    "LightGBM text, XGBoost JSON or UBJSON, CatBoost JSON or cbm, a treelite checkpoint, skops, or ONNX"
)

_XGBOOST_BINARY = (
    "XGBoost's old binary format, which XGBoost up to 3.0 reads: load it there and save it, "
    "Booster(model_file=path).save_model('model.json')"
)
_XGBOOST_DUMP = (
    "a {} dump of XGBoost's dump_model, which lacks the objective and the base score; save the model itself with "
    "Booster.save_model('model.json')"
)

# First bytes of known formats that are not read, and what to do instead.
_REFUSED = {
    rb"PK\x03\x04": "a zip archive without skops' schema.json (NumPy or PyTorch?); load the object yourself and "
    "pass it",
    rb"\x28\xb5\x2f\xfd": "a file compressed by zstd; decompress it first",
    rb"binf|bs64": _XGBOOST_BINARY,
    # Up to 1.2: 136 bytes of parameters, then the objective's name behind its length.
    rb".{136}[\x01-\x40]\0{7}[a-z]+:[a-z0-9_]+": _XGBOOST_BINARY,
    rb"\s*booster\[\d+\]:": _XGBOOST_DUMP.format("text"),
    rb"\x89HDF": "HDF5; export the model to ONNX",
    rb"\s*#include\b": "source code of C++; save the model itself, with CatBoost save_model(path, format='cbm')",
    rb"\s*<\?xml": "XML, such as PMML; save the model in its library's own format, or export it to ONNX",
    rb"\s*<(?:!DOCTYPE|!doctype|html|HTML)": "a page of HTML: the download brought a page, not the file",
    rb"version https://git-lfs": "a pointer of Git LFS and not the file itself; run git lfs pull",
}
# Three version numbers and two element types.
_TREELITE = re.compile(rb"[\x01-\x07]\0\0\0.\0\0\0.\0\0\0[\x01-\x03][\x01-\x03]", re.DOTALL)
# Protocols 0 and 1 have no mark: they begin with the name of a class, a tuple, a list or a dict.
_PICKLE = re.compile(
    rb"\x80[\x00-\x05]|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n|\((?:[dl]p?\d*\n|i[A-Za-z_][\w.]*\n)", re.DOTALL
)
# gzip, bz2, xz, lzma, lz4 and zlib, as joblib.dump(model, path, compress=…) writes them.
COMPRESSED = re.compile(
    rb"\x1f\x8b|BZh\d|\xfd7zXZ|\x5d\0\0..\xff\xff|\x04\x22\x4d\x18|\x78[\x01\x5e\x9c\xda]", re.DOTALL
)
_COMPRESSED = (
    "a compressed file; say trust=True if it is a pickle of joblib and you would run a program from the same source, "
    "and decompress any other file first"
)
_UNTRUSTED = (
    "a pickle, which can run any code when it is read; save the model in its library's own format, or say "
    "trust=True if you would run a program from the same source"
)


def sniff(content: bytes, name: str, *, trust: bool = False) -> str:
    """Return the format of a model file, one of this module's names; PICKLE only with `trust`.

    Args:
        content: the file's bytes.
        name: stands for the file in messages.
        trust: accept a pickle.

    Raises:
        ModelFormatError: the file is empty, or of no known format.
        UnsupportedModelError: a known format that is not read; the message says what to do instead.
    """
    if not content:
        raise ModelFormatError(f"{name}: the file is empty; expected {EXPECTED}")
    for beginning, what in ((_PICKLE, _UNTRUSTED), (COMPRESSED, _COMPRESSED)):
        if beginning.match(content):
            if not trust:
                raise UnsupportedModelError(f"{name}: expected {EXPECTED}, got {what}")
            return PICKLE
    if (
        content.startswith(b"PK\x03\x04") and b"schema.json" in content[-(1 << 16) :]
    ):  # in the directory at the end
        return SKOPS
    for pattern, reason in _REFUSED.items():
        if re.match(pattern, content, re.DOTALL):
            raise UnsupportedModelError(f"{name}: expected {EXPECTED}, got {reason}")
    if content.startswith(b"CBM1"):
        return CATBOOST_BINARY
    if re.match(rb"\s*tree\r?\n", content):
        return LIGHTGBM
    if re.match(rb"\{[iUIlL]", content):
        return XGBOOST_UBJSON
    if re.match(rb"\s*\[\s*\{\s*\"(?:nodeid|leaf)\"", content):
        raise UnsupportedModelError(f"{name}: expected {EXPECTED}, got {_XGBOOST_DUMP.format('JSON')}")
    if re.match(rb"\s*\{", content):
        return _sniff_json(content, name)
    if _TREELITE.match(content):
        return TREELITE
    if _looks_like_onnx(content):
        return ONNX
    raise ModelFormatError(
        f"{name}: expected {EXPECTED}, and it begins with {content[:16]!r}, which is none of them"
    )


def _sniff_json(content: bytes, name: str) -> str:
    if b'"learner"' in content:
        return XGBOOST_JSON
    try:
        keys = set(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{name}: expected {EXPECTED}, got JSON that is truncated or damaged: {error}"
        ) from None
    if "tree_info" in keys:
        raise UnsupportedModelError(
            f"{name}: a LightGBM JSON dump; save the model itself with Booster.save_model('model.txt')"
        )
    if keys & {"oblivious_trees", "features_info"}:
        return CATBOOST
    raise ModelFormatError(
        f"{name}: expected {EXPECTED}, got JSON without the key 'learner' that XGBoost writes"
    )


def _looks_like_onnx(content: bytes) -> bool:
    """Whether the bytes begin like a ModelProto: ir_version (field 1, varint), then another known field.

    That tells ONNX from the other formats; its reader checks the rest.
    """
    match = re.match(rb"\x08[\x01-\x1f](.?)", content, re.DOTALL)
    # Fields 2-6, 7 (graph), 8 (opset) and 14 (metadata) of ModelProto, with their wire types.
    return match is not None and match[1] in (
        b"",
        b"\x12",
        b"\x1a",
        b"\x22",
        b"\x28",
        b"\x32",
        b"\x3a",
        b"\x42",
        b"\x72",
    )
