"""Bloch-McConnell physics on arrays (JAX); no files, no BIDS, no workflow engine."""
