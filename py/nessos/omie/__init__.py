"""Omie, the ERP: what is read from it, and what its webhooks tell."""
