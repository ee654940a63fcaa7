"""A real OpenID provider in this process: Canaille, as ``pytest-iam`` starts it.

Its host is ``localhost``, which is another site than the ledger's 127.0.0.1, so that a browser
keeps Strict cookies back on the way from one to the other. Its import takes seconds: only the
fixture that needs the provider loads it.
"""

import contextlib
import os
import threading
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from tests.support.served import free_port

CLIENT, SECRET = "ledger-in-a-browser", "a-secret-of-the-tests-in-a-browser"


class Iam:
    """A running Canaille with one client, which ``trust`` registers."""

    def __init__(self, server: Any) -> None:
        self.server = server

    @property
    def issuer(self) -> str:
        """The issuer of its discovery document."""
        return str(self.server.url).rstrip("/")

    def trust(self, address: str) -> None:
        """Register the ledger of this address."""
        client = self.server.models.Client(
            client_id=CLIENT,
            client_secret=SECRET,
            client_name="Execution ledger",
            client_uri=address,
            redirect_uris=[f"{address}/ui/oidc/callback"],
            post_logout_redirect_uris=[f"{address}/"],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            scope=["openid", "profile", "email", "groups"],
            id_token_signed_response_alg="RS256",
            token_endpoint_auth_method="client_secret_basic",
        )
        with self.server.app.app_context():
            self.server.backend.save(client)
            client.audience = [client]
            self.server.backend.save(client)
        self._client = client

    def person(self, name: str, *groups: str) -> None:
        """Sign in a new person, who is in these groups and has agreed to the use of their data."""
        user = self.server.random_user(formatted_name=name, user_name=name.lower())
        for group in groups:
            self.server.random_group(display_name=group, members=[user])
        self.server.login(user)
        self.server.consent(user, self._client)


@contextlib.contextmanager
def running_iam() -> Iterator[Iam]:
    """A running provider on a free port."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from canaille import create_app
        from canaille.backends import Backend
        from joserfc.jwk import JWKRegistry
        from pytest_iam import Server

        port = free_port()
        key = JWKRegistry.generate_key("RSA", 2048)
        key.ensure_kid()
        before = os.environ.get("AUTHLIB_INSECURE_TRANSPORT")
        os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
        app = create_app(
            config={
                "TESTING": True,
                "ENV_FILE": None,
                "SECRET_KEY": str(uuid.uuid4()),
                "WTF_CSRF_ENABLED": False,
                "PREFERRED_URL_SCHEME": "http",
                "SERVER_NAME": f"localhost:{port}",
                "CANAILLE": {
                    "DATABASE": "memory",
                    "JAVASCRIPT": False,
                    "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc"]}},
                    "LOGGING": {"version": 1, "disable_existing_loggers": False},
                },
                "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
            },
            env_file=".none",
            env_prefix="NONE_",
        )
        server = Server(app, port, Backend.instance)
    thread = threading.Thread(target=server.httpd.serve_forever, name="iam")
    thread.start()
    try:
        with app.app_context():
            yield Iam(server)
    finally:
        server.httpd.shutdown()
        thread.join()
        server.httpd.server_close()
        if before is None:
            del os.environ["AUTHLIB_INSECURE_TRANSPORT"]
