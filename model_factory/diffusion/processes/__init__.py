"""Forward processes of discrete diffusion and their noise schedules.

Importing this package imports nothing; `built_in` registers the processes and schedules that a file can name.
"""
