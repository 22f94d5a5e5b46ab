"""Knowledge: what search finds, how much of it, and what it is measured on."""
