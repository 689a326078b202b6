"""Watch: alerts that somebody must hear, and the numbers that dashboards show.

Room channels says where alerts go. Room alerts tells each once, and once more when it is well again. Room metrics
writes files for Prometheus. Door: rules, which decides by what a night or a batch has come to.
"""
