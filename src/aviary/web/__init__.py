"""The web app in the control process: `/api`, `/docs`, and the workers' stream of snapshots."""
