#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, for trying things out: a head and workers, each a node of its own.
#
#   cluster/local_cluster.sh [-w WORKERS] [-c CPUS_OF_EACH_WORKER] COMMAND...
#   cluster/local_cluster.sh -w 2 phasegrid run sweeps/quickstart.yaml --storage /tmp/results
#
# COMMAND finds the cluster by RAY_ADDRESS; the nodes end when it ends, and so does its exit code this script. Ports are free ones, files lie in a
# folder of its own, a token keeps others out, and only the processes it started are ended: other Rays on this machine go on.
set -euo pipefail

workers=1
cpus=1
while getopts w:c: option; do
  case $option in
    w) workers=$OPTARG ;;
    c) cpus=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { echo "usage: cluster/local_cluster.sh [-w WORKERS] [-c CPUS] COMMAND..." >&2; exit 2; }

scratch=$(mktemp -d /tmp/pg-XXXXXX) # short: sockets lie in it
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export OMP_NUM_THREADS=1
unset RAY_ADDRESS

nodes=()
command=
# shellcheck disable=SC2329 # called by a trap
stop() {
  local pid
  trap - EXIT TERM INT
  if [ -n "$command" ] && kill -TERM "$command" 2>/dev/null; then
    timeout 60 tail --pid="$command" -f /dev/null || kill -KILL "$command" 2>/dev/null || true
  fi
  for pid in "${nodes[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done # it ends its own processes
  for pid in "${nodes[@]}"; do
    timeout 20 tail --pid="$pid" -f /dev/null || true
    kill -KILL -- "-$pid" 2>/dev/null || true # its whole group, of which it is the first
  done
  wait || true
  rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

free_ports() {
  python - "$1" <<'PY'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
}

start() { # NAME OPTIONS...: start a node in a session, process group and folder of its own: two that share one take each other's sockets
  local name=$1
  shift
  setsid ray start --block --node-ip-address=127.0.0.1 --object-store-memory=134217728 --temp-dir="$scratch/$name" "$@" \
    >"$scratch/$name.log" 2>&1 &
  nodes+=($!)
}

read -r gcs agent agent_grpc <<<"$(free_ports 3)"
address=127.0.0.1:$gcs
start head --head --port="$gcs" --num-cpus=0 --include-dashboard=false \
  --dashboard-agent-listen-port="$agent" --dashboard-agent-grpc-port="$agent_grpc"

answers() { ray health-check --address "$address" >/dev/null 2>&1; }
for attempt in $(seq 60); do
  answers && break
  kill -0 "${nodes[0]}" 2>/dev/null || { cat "$scratch/head.log" >&2; exit 4; }
  [ "$attempt" -lt 60 ] || { echo "the head did not answer: $scratch/head.log" >&2; exit 4; }
  sleep 0.5
done
for number in $(seq "$workers"); do
  read -r agent agent_grpc <<<"$(free_ports 2)"
  start "w$number" --address="$address" --num-cpus="$cpus" \
    --dashboard-agent-listen-port="$agent" --dashboard-agent-grpc-port="$agent_grpc"
done

# The command starts when every node is there.
python - "$address" "$((workers + 1))" <<'PY' || { cat "$scratch"/*.log >&2; exit 4; }
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 90
while (there := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > deadline:
        sys.exit(f"{there} of {sys.argv[2]} nodes came up")
    time.sleep(0.5)
PY

RAY_ADDRESS=$address "$@" &
command=$!
code=0
wait "$command" || code=$?
exit "$code"
