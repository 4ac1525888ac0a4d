"""Files that come with the package."""

from pathlib import Path

MINI_BLIP = Path(__file__).parent / "mini-blip" / "model.safetensors"  # its record beside it
