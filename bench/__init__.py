"""Side-by-side measurements of the budgets of ness.OS: `python -m bench`."""
