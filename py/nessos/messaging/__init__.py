"""Messages to people: the services that carry them, what they say, and what becomes of them."""
