"""Models on a GPU: graphs captured once, then replayed without Python.

`load_model(…, device=)` places forests and dense nets. `from_cupy` makes a model of CuPy code, `from_onnx` of a network
through TensorRT, and `from_body` of any work on a CUDA stream. Only NVIDIA's driver is needed, and a compiler once.
"""

from engine.model.gpu.cupy import from_body, from_cupy
from engine.model.gpu.placement import GpuModel, place
from engine.model.gpu.tensorrt import from_onnx

__all__ = ["GpuModel", "from_body", "from_cupy", "from_onnx", "place"]
