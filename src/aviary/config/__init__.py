"""Model specs and settings: reading, checking, explaining what is wrong."""
