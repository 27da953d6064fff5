"""Take a trained generator out of its run, draw from it again, and hand it on."""

from gantune.export.folder import Exported, export
from gantune.export.generator import WEIGHTS, Generator, load_generator, open_generator

__all__ = ["WEIGHTS", "Exported", "Generator", "export", "load_generator", "open_generator"]
