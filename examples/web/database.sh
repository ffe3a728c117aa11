#!/bin/sh
# The database: a folder of orders. It says that it is ready once it has looked through it.
set -u
mkdir -p "$DATA/orders" "$DATA/shipped"
rm -f "$DATA/ready"
echo "database: $(ls "$DATA/orders" | wc -l) orders are open"
: >"$DATA/ready"
trap 'rm -f "$DATA/ready"; echo "database: bye"; exit 0' TERM INT
while :; do sleep 1; done
