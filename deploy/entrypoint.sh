#!/bin/sh
# Runs deltamem. A server that others can reach needs an API key: if the store has none and DELTAMEM_FIRST_TENANT names
# a tenant, its first key is made and kept in DELTAMEM_HOME/first-key, readable by this user alone.
set -eu

store=${DELTAMEM_STORE:-}
if [ "${1:-}" = serve ]; then
    shift
    set -- serve ${store:+--store "$store"} "$@"
    if [ -n "${DELTAMEM_FIRST_TENANT:-}" ] && [ "$(deltamem keys list ${store:+--store "$store"} --json)" = "[]" ]; then
        umask 077
        deltamem keys create "$DELTAMEM_FIRST_TENANT" ${store:+--store "$store"} > "$DELTAMEM_HOME/first-key.new"
        mv "$DELTAMEM_HOME/first-key.new" "$DELTAMEM_HOME/first-key"
        echo "The first API key is in $DELTAMEM_HOME/first-key." >&2
    fi
fi
exec deltamem "$@"
