"""The composition root: everything one running Aviary consists of, put together and taken down.

The control process owns fleet, backend and web app, and supervises the gateway workers.
"""

from aviary.bootstrap.instance import Instance, Plan

__all__ = ["Instance", "Plan"]
