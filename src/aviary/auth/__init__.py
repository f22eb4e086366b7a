"""Who may do what: API keys, and which addresses may be bound without them."""
