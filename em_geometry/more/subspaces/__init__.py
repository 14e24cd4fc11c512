"""Directions and subspaces that fine-tunes share."""
