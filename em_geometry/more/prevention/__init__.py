"""Trainings with a vector added or taken out."""
