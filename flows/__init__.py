"""What runs, and in which order: one file a flow, each a short recipe over the stages of `tasks`."""
