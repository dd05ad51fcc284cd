"""The five views of the cockpit. Each draws the run's state when it is told what changed, and only while it is in sight."""
