"""The tiny text-to-image model that draws when no other is configured: 256x256 pictures, 0.4 s each on two cores.

`folder()` is all that others need: the path of a Stable Diffusion model in OpenVINO's format, ready for
`openvino_genai.Text2ImagePipeline`, with the `defaults.json` that it draws best with. `known_words(prompt)` tells which
words of a prompt the model can do something with. The weights lie in `weights/` as text (base64), because a Space takes
no binary files; `python -m demo_model.training.pack FOLDER` writes them. How they were trained: `demo_model/README.md`.
"""

from demo_model.loader import DemoModelError, folder
from demo_model.words import known_words

__all__ = ["DemoModelError", "folder", "known_words"]
