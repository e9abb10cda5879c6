"""ONNX models: run by ONNX Runtime, or read into native nets where they are one chain of dense layers."""

from engine.model.onnx.load import load_onnx
from engine.model.onnx.runtime import OnnxModel

__all__ = ["OnnxModel", "load_onnx"]
