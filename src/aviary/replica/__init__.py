"""A replica: one process that serves one spec; an ASGI app around one engine."""
