"""Packs a model folder into `weights/`, as text: `python -m demo_model.training.pack FOLDER`.

The folder holds a Stable Diffusion model in OpenVINO's format. `defaults.json` of this package goes with it, unless the
folder has its own. The same folder gives the same files, byte for byte (with the same version of liblzma).
"""

import argparse
import base64
import io
import lzma
import shutil
import tarfile
from pathlib import Path

from demo_model.loader import ARCHIVE_NAME, CHECKSUM_NAME, CONTENTS_NAME, PART_PATTERN, WEIGHTS, checksum
from demo_model.words import WORDS_NAME

_DEFAULTS = Path(__file__).parent.parent / "defaults.json"
_PART_BYTES = 4_500_000  # of the archive, a multiple of 3: 6.1 MB of text; a Space takes no file above 10 MB
# Larger than the whole model, so that everything can refer to everything; preset 9's 64 MiB would only cost memory.
_DICTIONARY_BYTES = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.pack", description=__doc__)
    parser.add_argument("folder", type=Path, help="the model: model_index.json, unet/, text_encoder/, ...")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    if not (arguments.folder / "model_index.json").is_file():
        parser.error(f"{arguments.folder} holds no model_index.json: this is no model folder")
    digest = pack(arguments.folder, arguments.weights)
    print(f"{arguments.folder} -> {arguments.weights}, SHA-256 {digest}")


def pack(folder: Path, weights: Path = WEIGHTS) -> str:
    """Writes the folder's files as numbered text files and a checksum to `weights`; returns the checksum.

    The list of words that the model knows lies beside them as it is: the page asks it before the model is unpacked.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": _DICTIONARY_BYTES}]
    archive = lzma.compress(tar_of(folder), check=lzma.CHECK_CRC64, filters=filters)
    weights.mkdir(parents=True, exist_ok=True)
    for old in weights.glob(PART_PATTERN):
        old.unlink()
    for number, start in enumerate(range(0, len(archive), _PART_BYTES)):
        lines = base64.encodebytes(archive[start : start + _PART_BYTES])
        (weights / f"{ARCHIVE_NAME}.b64.{number:02d}").write_bytes(lines)
    digest = checksum(archive)
    (weights / CHECKSUM_NAME).write_text(f"{digest}  {ARCHIVE_NAME}\n", encoding="ascii")
    if (words := folder / WORDS_NAME).is_file():
        shutil.copyfile(words, weights / WORDS_NAME)
    return digest


def tar_of(folder: Path) -> bytes:
    """Returns a tar of the folder's files, sorted, without times and owners."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    files.pop(CONTENTS_NAME, None)  # of a folder that was unpacked
    files.setdefault(_DEFAULTS.name, _DEFAULTS)
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, file in sorted(files.items()):
            content = file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return tar_bytes.getvalue()


if __name__ == "__main__":
    main()
