"""A tiny text-to-image model that draws when no other model is configured: 256x256 pixels, 0.4 s on two CPU cores.

`folder()` returns the path of a Stable Diffusion model in OpenVINO's format for `openvino_genai.Text2ImagePipeline`.
Its `defaults.json` holds the settings that it draws best with. `encoder_prompt(prompt)` returns what the pipeline is
given for a prompt, and `known_words(prompt)` the words of it that the model draws. The weights lie in `weights/` as
text (base64), because a Space takes no binary files; `python -m demo_model.training.pack FOLDER` writes them.
`demo_model/README.md` tells how they were trained.
"""

from demo_model.loader import DemoModelError, folder
from demo_model.prompt import encoder_prompt, known_words

__all__ = ["DemoModelError", "encoder_prompt", "folder", "known_words"]
