"""Who is measured.

bare.py    a loop that does nothing but ask for tokens, over one transport or another
idiom.py   what people write: one Celery task a grant, Authlib, a Redis lock, tokens set in Redis
"""
