"""The admin HTTP: health, metrics, status and, on the control socket, reload."""
