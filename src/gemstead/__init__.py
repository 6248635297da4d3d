"""Gemstead: Gemma 4 on your own hardware, in production, from one file."""

__version__ = "0.1.0"
