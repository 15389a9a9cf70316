"""Inverse problems and the methods that solve them; arrays only."""
