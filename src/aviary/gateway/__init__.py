"""The gateway: the front door. Stateless workers that pass bytes from replicas to clients."""
