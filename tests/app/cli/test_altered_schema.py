"""Somebody alters the code in the database below a service: it is named, and mended at a start."""

import os
from pathlib import Path

from ledger.features.keys.tokens import create_token, hash_token
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import LINE, activation
from tests.support.served import Served, free_port, post, run_ledger
from tests.support.views import query, until

# A token of the attacker passes as an administrator's.
BACKDOOR = """
DO $$ BEGIN EXECUTE replace(
    pg_get_functiondef('ledger.passing_keys'::regproc), 'END $function$',
    'RETURN QUERY SELECT ''\\x{hash}''::bytea, ''KEY-26-000001'', NULL::text, NULL::text,
        ''{admin}''::text[], NULL::timestamptz WHERE ''\\x{hash}'' = ANY (hashes);
     END $function$');
END $$
"""
LYING_EVENTS = """
DO $$ BEGIN EXECUTE replace(
    pg_get_functiondef('ledger.stored_events'::regproc), 'e.topic, e.state',
    'replace(e.topic, ''activated'', ''closed''), e.state');
END $$
"""
LYING_VIEW = """
DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW ledger.execution WITH (security_invoker) AS ' ||
    replace(pg_get_viewdef('ledger.execution'::regclass), ' state', ' ''closed''::text AS state');
END $$
"""
ALTERED = {
    BACKDOOR: "function passing_keys(",
    LYING_EVENTS: "function stored_events(",
    LYING_VIEW: "view execution:",
    "ALTER TABLE ledger.ledger_events DISABLE TRIGGER ALL": (
        "trigger ledger_events.ledger_events_append_only:"
    ),
    "CREATE POLICY mine ON ledger.run_g1 USING (true)": "policy run_g1.mine:",
    "GRANT SELECT ON ledger.run_key TO PUBLIC": "grant SELECT on table run_key to PUBLIC:",
}
"""The attacker's statements, and how each object is named then."""


def test_altered_code_is_named_by_verify_and_mended_by_the_next_start(
    conninfo: str, tmp_path: Path
) -> None:
    settings = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    served = Served(tmp_path / "data", free_port(), workers=1, **settings)
    evil = create_token()
    path = f"/v1/execution/{LINE}"
    with served, served.client(served.token()) as client, served.client(evil) as attacker:
        assert post(client, activation()).status_code == 201
        truth = client.get(path).json()
        assert attacker.get(path).status_code == 401
        for statement in ALTERED:
            query(conninfo, statement.replace("{hash}", hash_token(evil).hex()))
        until(lambda: attacker.get(path).status_code == 200, "the backdoor")
        verified = run_ledger({**os.environ, **served.environment}, "verify")
        assert verified.returncode == 1
        assert [
            name for name in ALTERED.values() if f"\n{name}" not in f"\n{verified.stdout}"
        ] == []
    served.log.unlink()  # or the first start would be taken for the second
    with served, served.client(served.token()) as client, served.client(evil) as attacker:
        assert attacker.get(path).status_code == 401
        assert client.get(path).json() == truth
        (warning,) = [line for line in served.output.splitlines() if "was mended" in line]
        assert [name for name in ALTERED.values() if name not in warning] == []
        verified = run_ledger({**os.environ, **served.environment}, "verify")
        assert verified.returncode == 0, verified.stdout
        assert "objects of the schema, 0 differences." in verified.stdout
        assert client.get("/readyz").json()["log"]["differs"] is False
