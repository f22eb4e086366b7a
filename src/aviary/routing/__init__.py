"""Routing: which replica answers a request. Pure decisions over a table of endpoints."""
