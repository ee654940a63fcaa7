"""A ``jq`` for machines that have none: the options -c and -r, by the library of that name."""

import json
import sys

import jq


def main(arguments: list[str], text: str) -> list[str]:
    """The lines that ``jq`` prints for a program and its input."""
    options = {argument for argument in arguments if argument.startswith("-")}
    (program,) = (argument for argument in arguments if not argument.startswith("-"))
    assert options <= {"-c", "-r"}, f"pages use no other options: {options}"
    results = jq.compile(program).input_text(text).all()
    if "-r" in options:
        return [one if isinstance(one, str) else json.dumps(one) for one in results]
    spaces = (",", ":") if "-c" in options else None
    indent = None if "-c" in options else 2
    return [json.dumps(one, separators=spaces, indent=indent) for one in results]


if __name__ == "__main__":
    print("\n".join(main(sys.argv[1:], sys.stdin.read())))
