"""Benchmarks of the package: what they measured is committed with the command that measured it. Not
installed with the package."""
