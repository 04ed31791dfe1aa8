#!/usr/bin/env bash
# See a Docker image run in its own virtual machine, on a fresh Debian 12, with one command.
#
#   ./quickstart.sh          install what is missing, start hyperd, pull an image, run it as a pod, say what to type next
#   ./quickstart.sh --stop   stop the pods, hyperd and the local registry; images and stopped containers stay
#   ./quickstart.sh --purge  the same, and delete all of HyperStack's state
#
# Needs root or sudo. May be run again at any time. Settings (environment):
#   HYPERSTACK_STATE  state directory            [/var/lib/hyperstack]
#   HYPERSTACK_RUN    run-time directory         [/run/hyperstack]
#   HYPERSTACK_IMAGE  image to run               [docker.io/library/alpine:3, where Docker Hub can be reached, else one
#                                                 made from Debian's busybox, in a registry on the loopback]
#   HYPERSTACK_CACHE  guest kernel, compiled agent, local registry's program  [in the state directory]
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

STATE=${HYPERSTACK_STATE:-/var/lib/hyperstack}
RUN=${HYPERSTACK_RUN:-/run/hyperstack}
DAEMON_CACHE=${HYPERSTACK_CACHE:+$HYPERSTACK_CACHE/daemon}
DAEMON_CACHE=${DAEMON_CACHE:-$STATE/cache}
export HYPERSTACK_HOST=unix://$RUN/docker.sock
REGISTRY=127.0.0.1:5099
PUBLIC_IMAGE=docker.io/library/alpine:3
PUBLIC_TIMEOUT_S=20

main() {
    case ${1:-} in
        '') up ;;
        --stop) down ;;
        --purge) down; purge ;;
        -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | sed '$d' ;;
        *) die "unknown option: $1" "try ./quickstart.sh --help" ;;
    esac
}

hyperctl() { "$VENV/bin/hyperctl" "$@"; }

up() {
    local image
    need_packages "${RUN_PACKAGES[@]}"
    need_venv requirements.lock
    if ! answers; then
        need_kernel "$DAEMON_CACHE"
        start_hyperd
    fi
    image=$(obtain_image)
    step "Running $image as a pod: a virtual machine with a kernel of its own"
    show "$image"
    say_what_next "$image"
}

answers() { hyperctl version >/dev/null 2>&1; }

start_hyperd() {
    local pid waited=0
    step "Starting hyperd (its log: $STATE/hyperd.log)"
    mkdir -p "$STATE" "$RUN"
    getent group hyperstack >/dev/null || groupadd --system hyperstack
    setsid "$VENV/bin/hyperd" --data-root "$STATE" --run-dir "$RUN" --insecure-registry "$REGISTRY" \
        --cache-dir "$DAEMON_CACHE" </dev/null >>"$STATE/hyperd.log" 2>&1 &
    pid=$!
    echo "$pid" >"$RUN/quickstart.pid"
    until answers; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 15 "$STATE/hyperd.log" >&2
            die "hyperd did not start; its last words are above"
        fi
        sleep 0.2
        waited=$(( waited + 1 ))
        (( waited < 600 )) || die "hyperd does not answer on $RUN/docker.sock" "see $STATE/hyperd.log"
        if (( waited % 50 == 0 )); then note "still starting: $(tail -n 1 "$STATE/hyperd.log" | cut -c 1-100)"; fi
    done
}

# obtain_image: pull an image; print its name. Everything else goes to stderr.
obtain_image() {
    if [[ -n ${HYPERSTACK_IMAGE:-} ]]; then
        have "$HYPERSTACK_IMAGE" || { step "Pulling $HYPERSTACK_IMAGE" >&2; hyperctl pull -q "$HYPERSTACK_IMAGE" >&2; }
        echo "$HYPERSTACK_IMAGE"
    elif have "$PUBLIC_IMAGE" || pull_public; then
        echo "$PUBLIC_IMAGE"
    else
        pull_local
        echo "$REGISTRY/busybox:latest"
    fi
}

have() { hyperctl image inspect "$1" >/dev/null 2>&1; }

pull_public() {
    # A name that does not resolve tells within a moment; a firewall that swallows packets takes the time-out.
    have "$REGISTRY/busybox:latest" && return 1
    step "Pulling $PUBLIC_IMAGE" >&2
    timeout "$PUBLIC_TIMEOUT_S" "$VENV/bin/hyperctl" pull -q "$PUBLIC_IMAGE" >/dev/null 2>&1 && return
    note "Docker Hub cannot be reached from here" >&2
    return 1
}

pull_local() {
    local image=$REGISTRY/busybox:latest
    have "$image" && return
    step "Pulling $image from a registry on this host, made from Debian's busybox-static" >&2
    need_packages busybox-static >&2
    start_registry
    "$VENV/bin/python" -m hyperstack.image.assemble --push "$image" >&2
    hyperctl pull -q "$image" >&2
}

start_registry() {
    local binary directory=$STATE/quickstart-registry
    if registry_answers; then return; fi
    binary=$(registry_binary)
    mkdir -p "$directory"
    cat >"$directory/registry.yml" <<END
version: 0.1
log: {level: warn}
http: {addr: '$REGISTRY'}
storage: {filesystem: {rootdirectory: '$directory/blobs'}}
END
    setsid "$binary" serve "$directory/registry.yml" </dev/null >>"$directory/registry.log" 2>&1 &
    echo $! >"$RUN/quickstart-registry.pid"
    for _ in {1..100}; do
        if registry_answers; then return; fi
        sleep 0.1
    done
    tail -n 5 "$directory/registry.log" >&2
    die "the local registry does not answer on $REGISTRY"
}

registry_answers() { (exec 3<>"/dev/tcp/${REGISTRY%:*}/${REGISTRY#*:}") 2>/dev/null; }

show() {
    local output
    output=$(hyperctl run --rm "$1" sh -c 'echo "Hello from a HyperVM."; echo "kernel $(uname -r)"')
    printf '\n%s\n\n' "$output"
    note "the host's own kernel is $(uname -r)"
    # What it warns of is what follows.
    if hyperctl info 2>/dev/null | grep -q 'Accelerator: tcg'; then
        note "no usable hardware virtualisation here, so VMs run under emulation, several times slower"
    fi
}

say_what_next() {
    local image=$1 sudo='' ctl=.venv/bin/hyperctl
    [[ -n ${SUDO_USER:-} ]] && sudo='sudo '
    printf '%sNow try%s\n' "$BOLD" "$PLAIN"
    if [[ $RUN != /run/hyperstack ]]; then
        printf '  export HYPERSTACK_HOST=%s\n' "$HYPERSTACK_HOST"
        sudo=${sudo:+sudo -E }
    fi
    ctl=$sudo$ctl
    cat <<END
  $ctl run --rm -it $image sh
  $ctl run -d --name sleeper $image sleep 600
  $ctl exec sleeper uname -a
  $ctl rm -f sleeper
  $ctl doctor      what this host can do
  $ctl --help      all the rest
Docker's own client works as well: ${sudo}docker -H $HYPERSTACK_HOST ps
hyperd goes on running; ${sudo}./quickstart.sh --stop ends it.
END
}

# running_pid FILE PROGRAM: the pid in FILE, if it is alive and is (or runs) PROGRAM.
running_pid() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    [[ -n $pid && -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "$2" && echo "$pid"
}

end_process() {
    local pid=$1
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in {1..300}; do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid"
}

down() {
    local pid running
    # One that was killed left VMs, devices and rules, which the next one knows, and takes with it.
    if [[ -e $RUN/quickstart.pid && -x $VENV/bin/hyperd ]] && ! running_pid "$RUN/quickstart.pid" hyperd >/dev/null; then
        (start_hyperd) || note "hyperd was killed, and cannot clear up: what it left is on this host"
    fi
    if [[ -x $VENV/bin/hyperctl ]] && answers; then
        running=$(hyperctl ps -q)
        # shellcheck disable=SC2086  # one word per container
        if [[ -n $running ]]; then step "Stopping the containers"; hyperctl stop -t 3 $running >/dev/null; fi
    fi
    if pid=$(running_pid "$RUN/quickstart.pid" hyperd); then step "Stopping hyperd"; end_process "$pid"; fi
    if pid=$(running_pid "$RUN/quickstart-registry.pid" registry); then end_process "$pid"; fi
    rm -f "$RUN/quickstart.pid" "$RUN/quickstart-registry.pid"
}

purge() {
    step "Deleting $STATE and $RUN"
    rm -rf -- "${STATE:?}" "${RUN:?}"
}

case ${1:-} in -h|--help) ;; *) become_root "$0" "$@" ;; esac
main "$@"
