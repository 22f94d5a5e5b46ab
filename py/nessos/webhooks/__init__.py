"""Webhooks: what other systems tell us, and what we tell them."""
