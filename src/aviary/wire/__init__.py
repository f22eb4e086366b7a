"""HTTP on the wire: the pooled client, server-sent events, small ASGI helpers, error bodies."""
