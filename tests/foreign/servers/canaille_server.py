"""Canaille on loopback: python canaille_server.py DIRECTORY PORT.

Its endpoints are its own. Beside them are those of README.md, which the tests steer it by.
"""

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from canaille import create_app
from canaille.app import models
from canaille.app.flask import csrf
from canaille.backends import Backend
from flask import Blueprint, jsonify, request
from serving import serve

DIRECTORY, PORT = Path(sys.argv[1]), int(sys.argv[2])
ACCESS_SECONDS = 60  # and as long a refresh token: Canaille's two tokens end together

control = Blueprint("control", __name__, url_prefix="/control")
csrf.exempt(control)


@control.post("/clients")
def clients() -> object:
    metadata = request.json
    client = Backend.instance.get(models.Client, client_id=metadata["client_id"])
    if client is None:
        client = models.Client(
            client_name=metadata["client_id"],
            client_id_issued_at=datetime.now(UTC),
            grant_types=["authorization_code", "refresh_token"],
            scope=["openid"],
            **metadata,
        )
    client.client_secret = metadata["client_secret"]
    Backend.instance.save(client)
    return jsonify(None)


@control.post("/grants")
def grants() -> object:
    order = request.json
    client = Backend.instance.get(models.Client, client_id=order["client_id"])
    reader = Backend.instance.get(models.Client, client_id="api")
    client.audience = [client, reader]
    Backend.instance.save(client)
    return jsonify({grant_id: issue(client, grant_id) for grant_id in order["ids"]})


def issue(client: models.Client, grant_id: str) -> dict[str, object]:
    person = models.User(
        user_name=grant_id, family_name=grant_id, formatted_name=grant_id, emails=[f"{grant_id}@app.example"]
    )
    Backend.instance.save(person)
    token = models.Token(
        token_id=secrets.token_urlsafe(),
        type="Bearer",
        access_token=secrets.token_urlsafe(),
        refresh_token=secrets.token_urlsafe(),
        issue_date=datetime.now(UTC),
        lifetime=ACCESS_SECONDS,
        scope=["openid"],
        client=client,
        subject=person,
        audience=client.audience,
    )
    Backend.instance.save(token)
    return {
        "access_token": token.access_token,
        "refresh_token": token.refresh_token,
        "expires_in": ACCESS_SECONDS,
    }


@control.post("/pairs")
def pairs() -> object:
    living = [token for token in Backend.instance.query(models.Token) if not token.revoked]
    return jsonify(
        {
            token.subject.user_name: {
                "access_token": token.access_token,
                "refresh_token": token.refresh_token,
            }
            for token in living
        }
    )


if __name__ == "__main__":
    app = create_app(
        {
            "SECRET_KEY": "for the loopback",
            "SERVER_NAME": f"127.0.0.1:{PORT}",
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "sql", "FORCE_HTTPS": False},
            "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{DIRECTORY}/canaille.sqlite"},
            "CANAILLE_OIDC": {},
            # Authlib's name for the lifetime of what each kind of request gives.
            "OAUTH2_TOKEN_EXPIRES_IN": {"refresh_token": ACCESS_SECONDS},
        }
    )
    app.register_blueprint(control)
    serve(app, PORT)
