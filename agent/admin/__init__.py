"""The admin HTTP: health, metrics, status and, on the control socket, reload."""

CONTROL_SOCKET = "control.sock"
"""Name of the control socket in the runtime folder."""
