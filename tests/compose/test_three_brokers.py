"""docker-compose.ha.yaml: three brokers, one of which may fail."""

from tests.compose.stack import SETTLE_SECONDS, Stack
from tests.integration.processes import wait_until


def test_a_kill_of_one_of_three_brokers_loses_nothing_and_writes_continue(ha_stack: Stack) -> None:
    ha_stack.assert_nothing_lost(ha_stack.submit(6, "Before"))
    with ha_stack.load() as accepted:
        wait_until(lambda: len(accepted) >= 20, SETTLE_SECONDS, "there is load")
        (broker,) = ha_stack.compose.containers("kafka-2")
        ha_stack.compose.kill(broker)
        before = len(accepted)
        wait_until(lambda: len(accepted) >= before + 30, SETTLE_SECONDS, "requests are accepted")
        # Requests after the kill are not only accepted but also completed while the broker is down.
        ha_stack.harness.wait_for(accepted[before : before + 20], seconds=SETTLE_SECONDS)
        (dead,) = ha_stack.compose.containers("kafka-2")
        assert dead.state == "exited"
    ha_stack.assert_nothing_lost(list(accepted), SETTLE_SECONDS)

    ha_stack.compose.start(dead)
    ha_stack.wait_until_healthy()
    ha_stack.assert_nothing_lost(ha_stack.submit(6, "Afterwards"))
