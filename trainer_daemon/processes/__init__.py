"""The programs of the daemon side, one a module; the only places where supervisor, engine and link meet.

supervise   the daemon itself: no torch
agent       torch's elastic launcher for one attempt
rank        one training process; also what `torchrun … -m trainer_daemon RUN_FOLDER` runs
post        delivers one alert to a web address
infer       serves a stored checkpoint
"""
