"""The daemon's core: starts the ranks, outlives the terminal, restarts what falls, ends what should end. No torch, no zmq."""
