#!/usr/bin/env bash
# Set up what the tests need (Debian packages, .venv, a guest kernel), then check and test everything.
#
#   ./test.sh                     all of it: style, types, architecture, unit, VM, end-to-end, fault and fuzz tests
#   ./test.sh --unit              style, types, architecture and unit tests: no VM, seconds
#   ./test.sh --vm                only the tests that start VMs
#   ./test.sh --kills N --seed N  only the kill test: N kills of the daemon at random instants, repeatable by its seed
#   ./test.sh --starts KIND ...   how pods' machines begin: cold, template, fork or pool; else as the product has it
#   ./test.sh ... ARGS            everything else goes to pytest (-k EXPRESSION, -x, a path)
#
# Needs root: VMs get their own uids, cgroups and taps. All traffic stays within network namespaces.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

checks=yes
paths=(tests)
arguments=()
while (( $# )); do
    case $1 in
        -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
        --unit) paths=(tests/unit); shift ;;
        --vm) checks='' paths=(tests/vm tests/e2e tests/faults); shift ;;
        --kills) checks='' paths=(tests/faults/test_kills.py); arguments+=(--kills "${2:?--kills needs a number}"); shift 2 ;;
        --seed) arguments+=(--seed "${2:?--seed needs a number}"); shift 2 ;;
        --starts) export HYPERSTACK_TEST_STARTS=${2:?--starts needs a kind}; shift 2 ;;
        -k) checks=''; arguments+=(-k "${2:?-k needs an expression}"); shift 2 ;;
        tests/*) checks='' paths=(); arguments+=("$1"); shift ;;
        *) arguments+=("$1"); shift ;;
    esac
done

become_root "$0" "$@"
need_packages "${RUN_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
need_venv requirements-dev.lock
if [[ ${paths[*]} != tests/unit ]]; then
    registry_binary >/dev/null
    client=$(docker_client)
    engine=$(docker_engine) || note "no engine of Docker's to compare with, for the reason above: those tests are skipped"
    # Where the host has no docker, the newest one of these is its.
    PATH=$PATH:${engine:+$engine/usr/bin:}${client%/*}
    need_kernel "$CACHE/daemon"
fi

if [[ -n $checks ]]; then
    step "Style, types, architecture"
    "$VENV/bin/ruff" check -q .
    "$VENV/bin/mypy" --no-error-summary
    patiently "lint-imports" "$VENV/bin/lint-imports"
fi
step "Tests"
exec "$VENV/bin/pytest" "${arguments[@]}" "${paths[@]}"
