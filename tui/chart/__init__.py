"""Charts in character cells. `draw.py` is pure and needs no terminal; only `widget.py` knows Textual. Ours because the ready-made
plot widgets cost 11-24 times the CPU and 14-100 times the bytes per frame, and none joins log axis, gaps, zoom and crosshair."""
