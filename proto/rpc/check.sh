#!/usr/bin/env bash
# Lints the .proto files and compares them with what was published: check.sh [accept]
# With `accept`, what there is now is what is published from here on.
set -euo pipefail
cd "$(dirname "$0")"
version=v1.75.0
tools=${CARGO_TARGET_DIR:-../../target}/tools/buf-$version
if [[ ! -x $tools/buf ]]; then
  echo "building buf $version (once; kept in $tools)" >&2
  mkdir -p "$tools"
  GOBIN=$(realpath "$tools") GOFLAGS=-buildvcs=false \
    go install -trimpath "-ldflags=-s -w" "github.com/bufbuild/buf/cmd/buf@$version"
fi
"$tools/buf" lint
if [[ ${1:-} == accept ]]; then
  "$tools/buf" build --exclude-source-info -o published.binpb
else
  "$tools/buf" breaking --against published.binpb
fi
echo "protos: linted, and nothing published is broken"
