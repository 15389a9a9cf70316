"""Workflow builders: graphs only."""
