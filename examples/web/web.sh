#!/bin/sh
# The web server: an order now and then. Without its database it ends, as servers do.
set -u
trap 'echo "web: bye"; exit 0' TERM INT
n=0
while [ -e "$DATA/ready" ]; do
  n=$((n + 1))
  echo "order $$-$n" >"$DATA/orders/.$$-$n"
  mv "$DATA/orders/.$$-$n" "$DATA/orders/$$-$n"
  echo "web: took order $$-$n"
  sleep "$ORDERS_EVERY"
done
echo "web: the database is gone" >&2
exit 1
