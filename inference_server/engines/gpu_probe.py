"""What the driver tells of the GPU. It imports no PyTorch and opens no context.

Source: https://docs.nvidia.com/deploy/nvml-api (queries)
"""

import os
from typing import Any

from inference_server.messages import Hardware


def look(nvml: Any = None) -> Hardware | None:
    """The first GPU; None where there is no driver, or it does not answer. `nvml`: pynvml, imported if None."""
    try:
        if nvml is None:
            import pynvml as nvml  # type: ignore[no-redef]

        nvml.nvmlInit()
    except Exception:  # not installed, no driver here, one that does not fit its library
        return None
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = str(nvml.nvmlSystemGetDriverVersion())
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = str(nvml.nvmlDeviceGetName(handle))
        return Hardware(name, driver, f"{cuda // 1000}.{cuda % 1000 // 10}", memory.total, memory.free)
    except Exception:
        return None
    finally:
        nvml.nvmlShutdown()


def is_expected() -> bool:
    """Whether this is a container that was made for a GPU: nobody means to draw on its CPU, a hundred times slower."""
    return os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "void", "none")
