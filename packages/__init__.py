"""What turns the sources into packages and man pages; nothing of it is installed."""
