"""Aviary: explore, serve and run many LLMs of your own behind one OpenAI-compatible endpoint."""
