"""moto's S3 server on loopback, in the process of the tests: counts requests, and is away when a test says so."""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "house"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Storage:
    """A running server. `environment` is what a client needs."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.app = DomainDispatcherApplication(create_backend_app)
        self.requests: Counter[tuple[str, str]] = Counter()  # (method, path)
        self.order: list[str] = []  # the names of what was written, as it came
        self.away = False
        self.cut = ""  # the end of a path: of the next answer with that object half the body is sent
        self.number = 0
        self.uri = ""
        self.guard = threading.Lock()
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self.server.port}"
        self.environment = KEYS | {"AWS_ENDPOINT_URL": self.endpoint}
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fresh(self) -> None:
        """A folder that nobody has used, for the next test."""
        self.number += 1
        self.uri = f"s3://{BUCKET}/test-{self.number}"
        self.requests.clear()
        self.order.clear()
        self.away, self.cut = False, ""

    def answer(self, environ, start_response):
        """One request at a time: moto's own check and write of a conditional put are two steps."""
        self.requests[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
        if environ["REQUEST_METHOD"] == "PUT":
            self.order.append(environ["PATH_INFO"].rpartition("/")[2])
        if self.away:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        with self.guard:
            body = b"".join(self.app(environ, start_response))
            if self.cut and environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(self.cut):
                self.cut, body = "", body[: len(body) // 2]
            return [body]

    def downloads(self, name: str) -> int:
        return sum(count for (method, path), count in self.requests.items() if method == "GET" and path.endswith(name))


@contextlib.contextmanager
def running() -> Iterator[Storage]:
    """With its bucket made; ends with the block."""
    storage = Storage()
    try:
        boto3.client(
            "s3", endpoint_url=storage.endpoint, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)  # fmt: skip
        yield storage
    finally:
        storage.server.shutdown()
