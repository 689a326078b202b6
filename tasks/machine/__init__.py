"""Machine: what a process is set to before it works. Room environment sets the libraries' own variables."""
