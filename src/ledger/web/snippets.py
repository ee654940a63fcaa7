"""Code that verifies a delivery, as the page of an endpoint shows it (contract, Feeds)."""

PYTHON = """\
from standardwebhooks import Webhook


def take(secret: str, body: bytes, headers: dict[str, str]) -> tuple[str, int]:
    event = Webhook(secret).verify(body, headers)  # raises WebhookVerificationError
    return event["id"], event["sequence"]
"""

TYPESCRIPT = """\
import { Webhook } from "standardwebhooks";

export function take(secret: string, body: string, headers: Record<string, string>) {
  const verified = new Webhook(secret).verify(body, headers); // throws WebhookVerificationError
  const { id, sequence } = verified as { id: string; sequence: number };
  return { id, sequence };
}
"""

SNIPPETS = (
    ("Python", "pip install standardwebhooks", PYTHON),
    ("TypeScript", "npm install standardwebhooks", TYPESCRIPT),
)
"""Language, the command that installs the library, and the code."""
