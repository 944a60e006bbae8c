#!/usr/bin/env bash
# Renders the charts with their defaults into the manifests that slicectl carries.
set -euo pipefail
cd "$(dirname "$0")"

helm=${HELM:-}
if [[ -z $helm ]]; then
  helm=$(command -v helm || ls -t "${SLICEWIRE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slicewire}"/bin/helm-*/helm 2>/dev/null | head -n 1 || true)
fi
if [[ -z $helm ]]; then
  echo "helm is not here: install it, or run 'make rendered', which builds one" >&2
  exit 1
fi
output=${1:-rendered}
mkdir -p "$output"
for role in hub worker; do
  "$helm" template slicewire "charts/slicewire-$role" --namespace slicewire-system \
    --include-crds --set namespace.create=true >"$output/$role.yaml.unfinished"
  mv "$output/$role.yaml.unfinished" "$output/$role.yaml"
done
