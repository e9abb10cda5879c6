"""Settings of gunicorn for gunicorn_app.py."""

preload_app = True
workers = 2
threads = 4
graceful_timeout = 10


def worker_exit(server, worker):
    from gunicorn_app import close

    close()
