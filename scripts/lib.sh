# Shared by quickstart.sh, test.sh and .ci/run. Sourced, not run; needs bash and `set -euo pipefail`.
#
# Everything here is idempotent and quiet when there is nothing to do.

shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
CACHE=${HYPERSTACK_CACHE:-${HOME:-/root}/.cache/hyperstack}

# What the product needs on a Debian 12 host. One line each, with the reason.
RUN_PACKAGES=(
    ca-certificates         # PyPI and registries speak TLS
    e2fsprogs               # mkfs.ext4 for writable layers and volumes
    gcc libc6-dev           # compiles the guest's agent once
    linux-libc-dev          # its kernel headers
    make
    musl-tools              # a small static C library for it
    iproute2                # for people and scripts; the daemon itself speaks netlink
    kmod                    # loads tun and nf_tables where the host has them as modules
    libseccomp2             # the numbers of system calls, for seccomp filters
    lz4                     # Debian's kernel is compressed with it
    nftables
    python3
    python3-venv
    qemu-system-x86
)
# What the tests add.
TEST_PACKAGES=(
    busybox-static          # the test image
    curl                    # a client that knows nothing of Docker
    docker-compose          # Debian's, which is 1.29
    clang libclang-rt-14-dev  # coverage-guided fuzzing of the agent's parser
    erofs-utils             # fsck.erofs judges the layer disks
    git                     # clean clone in tests
    iptables                # hosts with a firewall of another's, in tests
    skopeo                  # a second opinion on archives, and what fills the test registries
    util-linux
)

if [[ -t 1 ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m'; else BOLD='' DIM='' PLAIN=''; fi

step() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*"; }
note() { printf '    %s%s%s\n' "$DIM" "$*" "$PLAIN"; }
die() { printf 'error: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }

# become_root SCRIPT ARGS...: start the script again under sudo where it is not root's.
become_root() {
    (( EUID == 0 )) && return
    command -v sudo >/dev/null || die "this must run as root, and there is no sudo" "log in as root and try again"
    exec sudo --preserve-env=HYPERSTACK_STATE,HYPERSTACK_RUN,HYPERSTACK_CACHE,HYPERSTACK_IMAGE -- "$@"
}

# patiently WHAT COMMAND...: run it with its output in a file; say every ten seconds that it goes on; show the file's
# end where it fails.
patiently() {
    local what=$1 log began=$SECONDS pid said=0 status=0
    shift
    log=$(mktemp)
    "$@" </dev/null >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if (( SECONDS - began >= said + 10 )); then
            said=$(( SECONDS - began ))
            note "$what: ${said} s so far ... $(tail -n 1 "$log" | cut -c 1-80)"
        fi
    done
    wait "$pid" || status=$?
    if (( status != 0 )); then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "$what failed (exit code $status); its last lines are above"
    fi
    rm -f "$log"
    if (( SECONDS - began >= 3 )); then note "$what: $(( SECONDS - began )) s"; fi
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]; }

# refresh_package_lists: once per run of a script, and only if something has to be fetched.
refresh_package_lists() {
    [[ -n ${LISTS_ARE_FRESH:-} ]] && return
    patiently "reading Debian's package lists" apt-get -o DPkg::Lock::Timeout=300 update
    LISTS_ARE_FRESH=1
}

# need_packages NAME...: install what is missing.
need_packages() {
    local missing=() name
    for name in "$@"; do installed "$name" || missing+=("$name"); done
    (( ${#missing[@]} == 0 )) && return
    command -v apt-get >/dev/null || die "these Debian packages are needed: ${missing[*]}" \
        "this host has no apt-get; HyperStack is made for Debian 12"
    step "Installing from Debian: ${missing[*]}"
    refresh_package_lists
    DEBIAN_FRONTEND=noninteractive patiently "installing packages" apt-get -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confold install -y --no-install-recommends "${missing[@]}"
}

# unpack_package NAME DIRECTORY: a Debian package's files without installing it, so that no service of it starts.
unpack_package() {
    local name=$1 directory=$2 work
    refresh_package_lists
    work=$(mktemp -d)
    chmod 755 "$work"
    if ! ( cd "$work" && patiently "fetching $name" apt-get download "$name" && dpkg-deb -x ./*.deb "$work/x" )
    then rm -rf "$work"; return 1; fi
    mkdir -p "$directory"
    cp -a "$work/x/." "$directory/"
    rm -rf "$work"
}

# need_venv LOCKFILE: .venv in the checkout with exactly the lock file's versions.
need_venv() {
    local lock=$1 python=/usr/bin/python3 wanted stamp
    wanted=$(cat "$ROOT"/requirements*.lock "$ROOT/pyproject.toml" | sha256sum | cut -c 1-64)
    for stamp in "$VENV/.installed-$lock" "$VENV/.installed-requirements-dev.lock"; do  # The second holds the first.
        if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && "$VENV/bin/python" -c 'import hyperstack' 2>/dev/null
        then return; fi
    done
    step "Preparing the Python environment in .venv"
    if ! "$VENV/bin/python" -c '' 2>/dev/null; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
        patiently "creating .venv" "$python" -m venv --clear "$VENV"
    fi
    patiently "installing from PyPI" "$VENV/bin/pip" --disable-pip-version-check install -q -r "$ROOT/$lock"
    patiently "installing hyperstack" "$VENV/bin/pip" --disable-pip-version-check install -q --no-deps -e "$ROOT"
    echo "$wanted" >"$VENV/.installed-$lock"
}

# registry_binary: the path of docker-registry; Debian's package, unpacked into the cache where it is not installed
# (installing it would start a registry on every address of the host).
registry_binary() {
    local unpacked=$CACHE/docker-registry
    if [[ -x /usr/bin/docker-registry ]]; then
        echo /usr/bin/docker-registry
        return
    fi
    if [[ ! -x $unpacked/usr/bin/docker-registry ]]; then
        unpack_package docker-registry "$unpacked" >&2
    fi
    echo "$unpacked/usr/bin/docker-registry"
}

# docker_client: the path of Debian's docker client, unpacked into the cache: the package would start a daemon, and a newer
# client that the host may have stays as it is.
docker_client() {
    local unpacked=$CACHE/docker.io
    if [[ ! -x $unpacked/usr/bin/docker ]]; then
        unpack_package docker.io "$unpacked.whole" >&2
        install -D "$unpacked.whole/usr/bin/docker" "$unpacked/usr/bin/docker"
        rm -rf "$unpacked.whole"
    fi
    echo "$unpacked/usr/bin/docker"
}

# use_suite SUITE DIRECTORY: make apt-get in this shell read packages of another suite of Debian, from the mirror that
# this host uses, and know nothing of what is installed. All that it keeps is in DIRECTORY; the host's own lists, caches
# and settings are not touched. Fails, with a word of why, where this host's packages are not Debian's.
use_suite() {
    local suite=$1 directory=$2 keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    mirror=$(. /etc/os-release
             apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
                 awk -v release="${VERSION_CODENAME:-}" '$1 == release && $2 == "main" { print $3; exit }') || return 1
    [[ -n $mirror ]] || { echo "apt's sources name no mirror of this host's release" >&2; return 1; }
    [[ -r $keys ]] || { echo "$keys, of the package debian-archive-keyring, is not there" >&2; return 1; }
    mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
    echo "deb [signed-by=$keys] $mirror $suite main" >"$directory/sources.list"
    : >"$directory/status"
    # How the host reaches a mirror (a proxy, say) is in its `Acquire` settings; its hooks would empty its own caches.
    { apt-config dump | grep '^Acquire::' || true; cat <<END
Dir::Etc::sourcelist "$directory/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State::status "$directory/status";
Dir::State::lists "$directory/lists";
Dir::Cache "$directory/cache";
APT::Architecture "$(dpkg --print-architecture)";
Acquire::Languages "none";
END
    } >"$directory/apt.conf"
    export APT_CONFIG=$directory/apt.conf
    unset LISTS_ARE_FRESH
}

# docker_engine: the directory of Docker's engine of Debian 13 with its clients, unpacked into the cache: tests hold ours
# against it. Debian 12's is too old to say what today's API says; these run with its C library, except for runc.
docker_engine() {
    local unpacked=$CACHE/docker-engine-trixie
    if [[ ! -x $unpacked/usr/sbin/dockerd ]]; then
        rm -rf "$unpacked.part"
        unpack_docker_engine "$unpacked.part" >&2 || return 1
        rm -rf "$unpacked.part/usr/share" "$unpacked"
        mv "$unpacked.part" "$unpacked"
    fi
    echo "$unpacked"
}

# In a subshell, as apt's settings are another's there, and as `patiently` ends the shell that it is in.
unpack_docker_engine() (
    apt=$(mktemp -d)
    trap 'rm -rf "$apt"' EXIT
    chmod 755 "$apt"  # It fetches as a user of its own.
    for package in runc tini; do unpack_package "$package" "$1" || exit 1; done
    use_suite trixie "$apt" || exit 1
    for package in containerd docker.io docker-cli docker-compose docker-buildx; do
        unpack_package "$package" "$1" || exit 1
    done
)

# need_kernel DIRECTORY: the guest's kernel and agent in a cache directory of hyperd.
need_kernel() {
    [[ -f $1/kernels/default && -d $1/agent ]] || step "Preparing the guest's kernel and agent"
    patiently "guest kernel and agent" "$VENV/bin/hyperd" --prepare --data-root "$1" --run-dir "$1" --cache-dir "$1"
}
