"""Both ends of the wire: the supervisor's sockets, and what the cockpit and the CLI hold."""
