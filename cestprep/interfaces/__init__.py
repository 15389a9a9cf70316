"""Thin nipype adapters: load, call, save."""
