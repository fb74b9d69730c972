#!/usr/bin/env bash
# A class of Kafka, as the distribution's script of this name starts it.
config="${KAFKA_LOG4J_CONFIG:-/opt/kafka/config/tools-log4j2.yaml}"
# shellcheck disable=SC2086 - lists of options
exec java ${KAFKA_HEAP_OPTS:--Xmx256M} ${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1} \
    -Dlog4j2.configurationFile="$config" ${KAFKA_OPTS:-} -cp "${TOOLS:+/opt/kafka/tools/*:}/opt/kafka/libs/*" "$@"
