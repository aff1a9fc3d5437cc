#!/bin/sh
# Runs deltamem, which reads its options from the environment (DELTAMEM_STORE, DELTAMEM_SERVE_PORT, …), so that no
# password stands in the list of processes. A server that others can reach needs an API key: if the store has none and
# DELTAMEM_FIRST_TENANT names a tenant, its first key is made and kept in DELTAMEM_HOME/first-key, readable by this user
# alone.
set -eu

if [ "${1:-}" = serve ] && [ -n "${DELTAMEM_FIRST_TENANT:-}" ]; then
    umask 077
    deltamem keys create "$DELTAMEM_FIRST_TENANT" --if-none > "$DELTAMEM_HOME/first-key.new"
    if [ -s "$DELTAMEM_HOME/first-key.new" ]; then
        mv "$DELTAMEM_HOME/first-key.new" "$DELTAMEM_HOME/first-key"
        echo "The first API key is in $DELTAMEM_HOME/first-key." >&2
    else
        rm "$DELTAMEM_HOME/first-key.new"
    fi
fi
exec deltamem "$@"
