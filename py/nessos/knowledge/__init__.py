"""Knowledge: cutting texts into passages, indexing them, searching, and measuring the search."""
