"""Experiments of neighbouring papers on the same models, vectors and outcomes: docs/method.md."""
