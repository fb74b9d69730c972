"""The data of the pages while a server hangs."""

import contextlib
import socket
import threading
import time

from filemill.adapters.kafka.topic_browser import BrowseQuery
from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill_dashboard.state.page_data import WAIT_SECONDS, PageData
from filemill_dashboard.state.services import Services

VIEWERS = 6
SERVER_TIMEOUT_SECONDS = 3.0


def test_reads_of_a_hanging_kafka_delay_no_read_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are accepted, and nothing answers
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = load(kafka_broker=broker, server_timeout_seconds=SERVER_TIMEOUT_SECONDS)
        engine = bootstrap.create_engine(settings, "test")
        data = PageData(Services(settings, engine))
        with contextlib.closing(data):
            queries = [BrowseQuery(settings.topic_create, partition, None, "", 1) for partition in range(VIEWERS)]
            reads = [threading.Thread(target=data.browse, args=(query,)) for query in queries]
            for thread in reads:
                thread.start()
            began = time.monotonic()
            faults = data.faults()
            assert (faults.value, faults.error) == ([], None)
            assert time.monotonic() - began < WAIT_SECONDS
            for thread in reads:
                thread.join()
        engine.dispose()
