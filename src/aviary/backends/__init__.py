"""Backends: what runs replicas. `local` on this machine, `ray` on any number of machines."""
