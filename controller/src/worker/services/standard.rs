//! A ServiceExport as anybody may write it.

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use slicewire_api::mcs::{self, ServiceExportSpec, ServiceExportStatus};

/// Most exports have no `spec` at all, and whoever installed the standard's definitions did not let the
/// API server fill one in.
#[derive(kube::Resource, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[resource(inherit = mcs::ServiceExport)]
pub(super) struct ServiceExport {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: ServiceExportSpec,
    #[serde(default)]
    pub(super) status: Option<ServiceExportStatus>,
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_export_needs_nothing_but_a_name() {
        let text = json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport",
            "metadata": { "name": "web", "namespace": "shop" },
        });
        let export: ServiceExport = serde_json::from_value(text).unwrap();
        assert_eq!(export.spec, ServiceExportSpec::default());
        assert_eq!(ServiceExport::kind(&()), "ServiceExport");
    }
}
