"""Steering: adding vectors to a model's residual stream, and what that does to its answers."""

from em_geometry.steering.formats import read_vectors, write_vectors
from em_geometry.steering.hooks import steered

__all__ = ["read_vectors", "steered", "write_vectors"]
