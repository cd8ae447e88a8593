"""`python -m tests.contracts.write`: write the schema and an example of every event version that has none yet.

What is there is never replaced, with one exception: a schema to which optional fields were added within its version.
"""

import sys

from shared.contracts.topics import EVENTS
from tests.contracts.published import EXAMPLES, SCHEMAS, drafted, generated, newest, text_of, widens


def main() -> int:
    """Exit code 1 when a published schema has changed in a way that needs a new version."""
    SCHEMAS.mkdir(exist_ok=True)
    EXAMPLES.mkdir(exist_ok=True)
    changed = 0
    for event in EVENTS:
        published = newest(event)
        schema, example = SCHEMAS / published.file_name, EXAMPLES / published.file_name
        if schema.exists():
            old, new = published.schema(), generated(event)
            if old != new and not widens(old, new):
                print(f"{published.file_name} was published and has changed: raise VERSION and write an upcaster (CONTRIBUTING.md)")
                changed = 1
                continue
        if not schema.exists() or published.schema() != generated(event):
            schema.write_text(text_of(generated(event)), encoding="utf-8")
            print(f"schemas/{schema.name}")
        if not example.exists():
            example.write_text(text_of(drafted(event)), encoding="utf-8")
            print(f"examples/{example.name}: read it, make it a good one, then commit it for ever")
    return changed


if __name__ == "__main__":
    sys.exit(main())
