"""The arena: what votes on battles say of models."""
