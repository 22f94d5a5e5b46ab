"""Who may do what, executed against the database."""
