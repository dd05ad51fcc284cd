"""Posts one message to one web address: {"url": …, "timeout_seconds": …, "body": {…}} on stdin, exit code 0 when taken."""

import json
import sys
import urllib.request


def main(arguments: list[str]) -> int:
    if arguments:
        print("usage: python -m trainer_daemon post < letter.json", file=sys.stderr)
        return 2
    letter = json.load(sys.stdin)
    request = urllib.request.Request(  # noqa: S310  # the spec takes http and https alone
        letter["url"],
        data=json.dumps(letter["body"]).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "llmctl"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=letter["timeout_seconds"]):  # noqa: S310
            return 0
    except (
        OSError,
        ValueError,
    ) as e:  # URLError and HTTPError are OSErrors; ValueError: not an address after all
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
