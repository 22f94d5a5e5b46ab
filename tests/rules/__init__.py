"""The business rules, acted out by people."""
