#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own, from Debian's package, in a temporary
# directory and on a free port of 127.0.0.1; stops it and removes it whatever happens.
#
#   tools/with-postgres.sh COMMAND [ARG...]
#
# The command's environment has
#   TEST_DATABASE_URL       its maintenance database, as a superuser with a password
#   TEST_POSTGRES_CONTROL   a program: start | stop (at once, like a crash) | pause | resume
#   TEST_POSTGRES_DIR       its directory, which holds the unix socket and server.log
#   TEST_PSQL               psql
#
# It speaks TLS (server.crt in its directory) to those who ask for it (PGSSLMODE is "disable"). It
# keeps nothing: fsync is off, but for measurements with TEST_POSTGRES_FSYNC=on.
caller=$PWD # lib.sh goes to the root of the tree; the command stays where it was asked for
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -gt 0 ] || die "usage: tools/with-postgres.sh COMMAND [ARG...]"

bin=$(find /usr/lib/postgresql/*/bin -name postgres 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || bin=$(command -v postgres || true)
[ -n "$bin" ] || die "PostgreSQL is not installed: tools/setup.sh run test"
bin=$(dirname "$bin")

dir=$(mktemp -d "${TMPDIR:-/tmp}/cg-pg-XXXXXX")
user=claudegate
password=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
child=

# The server refuses to run as root.
drop=
if [ "$(id -u)" -eq 0 ]; then
    drop="setpriv --reuid=postgres --regid=postgres --clear-groups"
    chown postgres: "$dir"
fi

cat >"$dir/control" <<EOF
#!/usr/bin/env bash
set -euo pipefail
cd /
run() {
    $drop env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 "\$@"
}
case \$1 in
init)
    printf '%s' '$password' >'$dir/password'
    chmod 644 '$dir/password'
    run /usr/bin/openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \\
        -subj /CN=nobody.invalid -keyout '$dir/server.key' -out '$dir/server.crt' 2>/dev/null
    run '$bin/initdb' -D '$dir/data' -U $user --pwfile='$dir/password' --encoding=UTF8 \\
        --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256 --no-sync >'$dir/init.log' 2>&1
    ;;
start)
    run '$bin/pg_ctl' -D '$dir/data' -l '$dir/server.log' -w -t 60 start >/dev/null
    ;;
stop)
    run '$bin/pg_ctl' -D '$dir/data' -m immediate -w -t 60 stop >/dev/null 2>&1
    ;;
pause | resume)
    [ \$1 = pause ] && signal=STOP || signal=CONT
    pid=\$(head -n 1 '$dir/data/postmaster.pid')
    kill -\$signal "\$pid" \$(grep -lsx "PPid:[[:space:]]*\$pid" /proc/[0-9]*/status | cut -d/ -f3)
    ;;
*)
    exit 2
    ;;
esac
EOF
chmod 755 "$dir/control"

# shellcheck disable=SC2317 # called by the trap and by the guard
remove() {
    "$dir/control" resume 2>/dev/null || true
    "$dir/control" stop || true
    rm -rf "$dir"
}
# shellcheck disable=SC2317 # called by the trap
finish() {
    local status=$?
    trap - EXIT
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    remove
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# SIGKILL leaves no time for any of this; somebody outside of this process group sees to it.
export -f remove
# shellcheck disable=SC2016 # its own variables
dir=$dir setsid bash -c '
    while kill -0 "$1" 2>/dev/null; do sleep 0.5; done
    [ ! -d "$dir" ] || remove' guard $$ </dev/null >/dev/null 2>&1 &

"$dir/control" init || {
    cat "$dir/init.log" >&2
    die "initdb failed"
}
cat >>"$dir/data/postgresql.conf" <<EOF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
fsync = ${TEST_POSTGRES_FSYNC:-off}
full_page_writes = ${TEST_POSTGRES_FSYNC:-off}
max_connections = 200
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
shared_buffers = 32MB
deadlock_timeout = 100ms
log_min_messages = fatal
EOF
for attempt in 1 2 3 4 5 6 7 8; do # PostgreSQL cannot choose a free port itself
    port=$(shuf -n 1 -i 15000-32000)
    echo "port = $port" >>"$dir/data/postgresql.conf"
    "$dir/control" start && break
    [ "$attempt" -lt 8 ] || {
        tail -n 20 "$dir/server.log" >&2
        die "PostgreSQL does not start"
    }
done

while IFS= read -r name; do
    case $name in PG*) unset "$name" ;; esac # psql and libpq would take them
done < <(compgen -e)
export TEST_DATABASE_URL="postgres://$user:$password@127.0.0.1:$port/postgres"
export PGSSLMODE=disable
export TEST_POSTGRES_CONTROL=$dir/control TEST_POSTGRES_DIR=$dir TEST_PSQL=$bin/psql
cd "$caller"
"$@" <&0 &
child=$!
status=0
wait "$child" || status=$?
child=
exit "$status"
