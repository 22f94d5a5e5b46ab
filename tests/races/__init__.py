"""Real concurrent sessions."""
