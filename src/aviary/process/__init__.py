"""Child processes that cannot be left behind: spawning, life line, reports, restart back-off."""
