#!/bin/sh
# The ways of the official image: the data is given to the user seaweed, who runs a `weed` with its usual defaults.
set -eu
export GODEBUG="${GODEBUG:+$GODEBUG,}fips140=on"
if [ "$(id -u)" = 0 ]; then
    [ "$(stat -c %u /data)" = "$(id -u seaweed)" ] || chown -R seaweed:seaweed /data
    exec setpriv --reuid seaweed --regid seaweed --clear-groups "$0" "$@"
fi
if [ "${1:-}" = mini ]; then
    shift
    case " $* " in
    *" -dir="* | *" --dir="*) exec /usr/bin/weed -logtostderr=true mini "$@" ;;
    *) exec /usr/bin/weed -logtostderr=true mini -dir=/data "$@" ;;
    esac
fi
exec /usr/bin/weed "$@"
