"""ComfyUI loads this folder as a node pack; the library itself is `matrix_lib`."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
