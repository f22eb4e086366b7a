"""Engines: what generates tokens. One engine lives in one replica."""
