"""Write the generated modules of the TypeScript client: ``routes.ts`` and ``types.ts``.

Run ``python -m scripts.typescript_client`` after a change of the API. ``make generate`` writes the
modules of both clients. The tool openapi-typescript makes the types; it needs Node 20.
"""

import subprocess
import sys

from scripts.python_client.__main__ import document
from scripts.typescript_client.modules import FOLDER, ROUTES, TYPES, is_of, made_types, schemas
from scripts.typescript_client.routes import routes


def main() -> int:
    """Write each module whose text has changed; return an exit code."""
    described = document()
    if (text := routes(described)) != ROUTES.read_text():
        ROUTES.write_text(text)
        print(f"written: {ROUTES.name}")
    reduced = schemas(described)
    if not is_of(TYPES.read_text(), reduced):
        npm = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
        subprocess.run(npm, cwd=FOLDER, check=True)
        TYPES.write_text(made_types(reduced))
        print(f"written: {TYPES.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
