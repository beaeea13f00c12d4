"""The contenders, beside the worker itself.

bare.py    a loop that only asks for tokens, over one HTTP client or another
idiom.py   what people write: one Celery task a grant, Authlib, a Redis lock, tokens set in Redis
"""
