#!/usr/bin/env bash
export KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G}"
export KAFKA_JVM_PERFORMANCE_OPTS="${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -Djava.awt.headless=true}"
export KAFKA_LOG4J_CONFIG=/opt/kafka/config/log4j2.yaml
exec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka "$@"
