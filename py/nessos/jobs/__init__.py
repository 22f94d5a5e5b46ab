"""The job queue: its schema and the worker that takes jobs from it."""
