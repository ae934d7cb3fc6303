"""Serving of a run over HTTP: `app` has the routes, `server` the process, `answers` what is drawn, `worker` the queue.

This package imports `model_factory.evaluation` and everything below it, starlette and uvicorn; only the command line imports
it.
"""
