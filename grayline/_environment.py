"""Set the libraries' variables on import, before Prefect and MLflow read them; import this room first."""

import warnings

from tasks.progress import show_log_lines
from tasks.settings import prepare_environment

prepare_environment()
show_log_lines()
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook: bars here need no ipywidgets
