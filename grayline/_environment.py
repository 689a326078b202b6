"""Set the libraries' variables on import, before Prefect and MLflow read them; import this room first."""

from tasks.access.environment import prepare_environment
from tasks.progress import show_log_lines

prepare_environment()
show_log_lines()
