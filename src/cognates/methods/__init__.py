"""Self-supervised methods, one file each."""

from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import get, load_plugin, names, register

__all__ = ["Method", "MethodConfig", "get", "load_plugin", "names", "register"]
