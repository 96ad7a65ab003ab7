"""The one package that knows transformers' internals: puts methods on models and takes them off again."""

from .seam import Handle, attach
from .shares import Shares

__all__ = ["Handle", "Shares", "attach"]
