"""The console: what the HTTP service shows a person at `/`. It calls what the API calls, and decides nothing.

views.py       every view that there is, in one table, and the routes
visits.py      one visit: session, form token, scope, limits, and what becomes of an error
sign_in.py     the form for a key; signing out
forms.py       what a form holds
cookies.py     the two cookies, and where a person may be sent on to
queries.py     what a view's address may say
fleet.py       the fleet at a glance
forecast.py    what is ahead of the fleet
plot.py        bars over time, as the shapes of an SVG
grants.py      grants listed, one grant, its history
timeline.py    events and audit entries in words
actions.py     what can be done to a grant, each after a confirmation
rendering.py   templates, headers, assets
words.py       spans and instants as people read them
templates/     Jinja2, escaped
static/        one stylesheet, an icon, htmx as it comes from npm, with its licence

docs/console.md is its page. The pages that a person sees on the way to a provider are others: ../pages.py.
"""
