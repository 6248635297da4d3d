"""Benchmarks of Gemstead that anyone can run. Not part of the installed package."""
