#!/usr/bin/env bash
# Says everything this machine lacks for the demo and the tests, and installs what it can:
# prerequisites.sh [browser]
# With `browser`, also what the story of the browser needs.
set -euo pipefail

faults=()
need() { # program, what to do
  command -v "$1" >/dev/null 2>&1 || faults+=("$1 is missing: $2")
}

export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"
need cargo "install Rust 1.95 or newer from https://rustup.rs"
need go "install Go 1.26 or newer from https://go.dev/dl; Kubernetes is built with it"
if [[ $(uname -s) != Linux ]]; then
  faults+=("this is $(uname -s): network namespaces are needed, which only Linux has")
fi
if [[ $(id -u) != 0 ]]; then
  faults+=("not root: network namespaces and containers need it; run this with sudo -E")
fi
if command -v cargo >/dev/null 2>&1; then
  have=$(rustc --version | awk '{print $2}')
  if [[ $(printf '%s\n' 1.95.0 "${have%%-*}" | sort -V | head -n 1) != 1.95.0 ]]; then
    faults+=("rustc is $have: run 'rustup update stable' to get 1.95 or newer")
  fi
fi

# Program and the Debian package that brings it.
packages=(
  cc:gcc cmake:cmake ldd:libc-bin runc:runc ip:iproute2 nsenter:util-linux mount:mount nft:nftables
  conntrack:conntrack ethtool:ethtool busybox:busybox-static iperf3:iperf3 tcpdump:tcpdump
  ping:iputils-ping curl:curl dnsperf:dnsperf wg:wireguard-tools dig:bind9-dnsutils
)
if [[ ${1:-} == browser ]]; then
  packages+=(chromium:chromium certutil:libnss3-tools)
  # Some bring both in one package.
  command -v npm >/dev/null 2>&1 || packages+=(node:nodejs npm:npm)
fi
missing=()
for entry in "${packages[@]}"; do
  command -v "${entry%%:*}" >/dev/null 2>&1 || missing+=("${entry##*:}")
done
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
if ((${#missing[@]})); then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null 2>&1; then
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    $install >/dev/null 2>&1 || { apt-get update >/dev/null && $install >/dev/null; } ||
      faults+=("packages are missing and could not be installed: $install")
  else
    faults+=("packages are missing: $install (or what your distribution calls them)")
  fi
fi

if [[ ${1:-} == browser ]]; then
  have=$(node --version 2>/dev/null || true)
  if [[ -n $have && $(printf '%s\n' v18.0.0 "$have" | sort -V | head -n 1) != v18.0.0 ]]; then
    faults+=("node is $have: install Node.js 18 or newer with npm from https://nodejs.org/en/download")
  fi
fi

if ((${#faults[@]})); then
  printf 'This machine is not ready:\n' >&2
  printf '  - %s\n' "${faults[@]}" >&2
  exit 1
fi
