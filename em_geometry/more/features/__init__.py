"""Latents of sparse dictionaries: trained or given, compared, and used as detectors."""
