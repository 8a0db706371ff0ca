"""Writes a network's weights as a GGUF file, as those on the hub are but for diffusers' own names.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from pathlib import Path
from typing import Any

import gguf
import torch

BLOCK = 32  # numbers that Q8_0 scales together


def save_gguf(network: Any, file: Path, architecture: str, quantised: bool = False) -> Path:
    """`quantised`: matrices as Q8_0 where their rows are whole blocks; else all as they are, in fp32."""
    writer = gguf.GGUFWriter(str(file), architecture)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, weight in network.state_dict().items():
        values = weight.detach().to(torch.float32).numpy()
        if quantised and values.ndim == 2 and values.shape[1] % BLOCK == 0:
            writer.add_tensor(name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
