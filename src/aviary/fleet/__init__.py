"""The fleet: desired state, what is running, and what happened. The one writer of both."""
