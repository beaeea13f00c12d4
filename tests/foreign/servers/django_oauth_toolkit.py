"""django-oauth-toolkit on loopback: python django_oauth_toolkit.py DIRECTORY PORT.

Its endpoints are its own. Beside them are those of README.md, which the tests steer it by.
"""

import json
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from serving import serve

DIRECTORY, PORT = Path(sys.argv[1]), int(sys.argv[2])
ACCESS_SECONDS = 60

settings.configure(
    SECRET_KEY=secrets.token_urlsafe(),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    # A transaction that begins with a read would be refused its first write, not wait for it.
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DIRECTORY / "django.sqlite",
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
    USE_TZ=True,
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": ACCESS_SECONDS,
        "REFRESH_TOKEN_EXPIRE_SECONDS": 86_400,
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,  # a used token, presented again, ends its family
        "SCOPES": {"read": "Reading", "introspection": "Introspection"},
    },
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402 models need the settings
from oauth2_provider.models import AccessToken, Application, RefreshToken  # noqa: E402


def _clients(metadata: dict[str, str]) -> None:
    application, _ = Application.objects.get_or_create(
        client_id=metadata["client_id"],
        defaults={
            "client_type": Application.CLIENT_CONFIDENTIAL,
            "authorization_grant_type": Application.GRANT_AUTHORIZATION_CODE,
            "redirect_uris": "https://app.example/callback",
            # Hashed, as by default, a secret costs half a second of the processor at each request. Many
            # at once on a small machine are answered after the client's deadline, and are lost.
            "hash_client_secret": False,
        },
    )
    application.client_secret = metadata["client_secret"]
    application.save()


def _grants(order: dict[str, object]) -> dict[str, dict[str, object]]:
    application = Application.objects.get(client_id=order["client_id"])
    return {grant_id: _issue(application, grant_id) for grant_id in order["ids"]}


def _issue(application: Application, grant_id: str) -> dict[str, object]:
    consent = {"user": User.objects.create(username=grant_id), "application": application}
    access_token = AccessToken.objects.create(
        **consent,
        token=secrets.token_urlsafe(),
        scope="read",
        expires=timezone.now() + timedelta(seconds=ACCESS_SECONDS),
    )
    refresh_token = RefreshToken.objects.create(
        **consent,
        token=secrets.token_urlsafe(),
        access_token=access_token,
        token_family=uuid4(),
    )
    return {
        "access_token": access_token.token,
        "refresh_token": refresh_token.token,
        "expires_in": ACCESS_SECONDS,
    }


def _pairs(_: None) -> dict[str, dict[str, str]]:
    living = RefreshToken.objects.filter(revoked=None).select_related("user", "access_token")
    return {
        each.user.username: {"access_token": each.access_token.token, "refresh_token": each.token}
        for each in living
    }


@csrf_exempt
def _control(request: HttpRequest, name: str) -> JsonResponse:
    handler = {"clients": _clients, "grants": _grants, "pairs": _pairs}[name]
    return JsonResponse(handler(json.loads(request.body or "null")), safe=False)


urlpatterns = [
    path("control/<name>", _control),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    serve(get_wsgi_application(), PORT)
