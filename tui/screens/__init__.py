"""What covers the whole terminal: the cockpit itself, and the questions it asks."""
