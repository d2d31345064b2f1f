"""Backends of the server home, written in Python."""
