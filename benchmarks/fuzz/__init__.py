"""Damaged inputs of every kind through the functions and commands that read them.

Each must be read, or refused with one of our own errors. See `benchmarks.fuzz.__main__`.
"""
