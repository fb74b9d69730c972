#!/usr/bin/env bash
# The ways that the official image documents: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (each also as a _FILE) and
# /docker-entrypoint-initdb.d count while PGDATA is empty; a server on the socket alone answers meanwhile.
set -euo pipefail

of() { # the value of a variable, or of the file that its _FILE names
    local file="${1}_FILE"
    if [ -n "${!file:-}" ]; then cat "${!file}"; else printf '%s' "${!1:-$2}"; fi
}

[ "${1:0:1}" = "-" ] && set -- postgres "$@"
if [ "$1" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA"
        chmod 700 "$PGDATA"
        chown -R postgres "$PGDATA" /var/run/postgresql
        exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        if mountpoint -q /var/lib/postgresql/data; then
            echo "Error: in 18+ the volume belongs at /var/lib/postgresql, not at /var/lib/postgresql/data" >&2
            exit 1
        fi
        user=$(of POSTGRES_USER postgres)
        password=$(of POSTGRES_PASSWORD "")
        database=$(of POSTGRES_DB "$user")
        if [ -z "$password" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
            echo "Error: Database is uninitialized and superuser password is not specified." >&2
            exit 1
        fi
        # shellcheck disable=SC2086 - a list of options
        initdb --username="$user" --pwfile=<(printf '%s\n' "$password") ${POSTGRES_INITDB_ARGS:-}
        printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
        pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" start
        run() { PGPASSWORD="$password" psql -v ON_ERROR_STOP=1 --host /var/run/postgresql --username "$user" "$@"; }
        [ "$database" = postgres ] || run --dbname postgres -c "CREATE DATABASE \"$database\""
        for script in /docker-entrypoint-initdb.d/*.sql; do
            [ -e "$script" ] && run --dbname "$database" -f "$script"
        done
        pg_ctl -D "$PGDATA" -m fast -w stop
        echo "PostgreSQL init process complete; ready for start up."
    fi
    shift
    # The official programs look for the socket in /var/run/postgresql, these in /tmp.
    set -- postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql,/tmp "$@"
fi
exec "$@"
