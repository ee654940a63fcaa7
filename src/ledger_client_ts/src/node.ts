// Parts of the client only for Node: `execution-ledger-client/node`.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import type { Store } from "./follow.js";

/**
 * A position in a file. The file is replaced as a whole, and survives a kill of the process.
 *
 * The last event before a kill may come again: at least once.
 */
export class FileCursor implements Store {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** The last saved position, or null. */
  load(): string | null {
    try {
      return readFileSync(this.#path, "utf8");
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return null;
      throw error;
    }
  }

  /** Store a position. */
  save(cursor: string): void {
    writeFileSync(`${this.#path}.part`, cursor);
    renameSync(`${this.#path}.part`, this.#path);
  }
}
