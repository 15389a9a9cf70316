"""Synthetic heads with known truth, as arrays."""
