"""Workflows: their engine is SQL, the worker only asks for the next step."""
