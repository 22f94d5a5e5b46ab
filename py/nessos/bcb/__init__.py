"""Rates of the Banco Central: read from its services, stored by the database."""
