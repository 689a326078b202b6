"""The stages, one file each: Prefect tasks with files in and files out.

What one stage hands to the next is a small frozen value of `tasks.values`; the flow passes it on.
"""
