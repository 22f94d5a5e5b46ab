"""ness.OS: the thin Python side of an operating system that lives in Postgres."""

__version__ = "0.1.0"
