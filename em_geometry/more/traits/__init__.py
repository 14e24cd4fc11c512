"""Directions from system prompts."""
