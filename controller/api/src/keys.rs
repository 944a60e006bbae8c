//! New keys for a slice's gateways: an annotation that the hub takes up, written as the caller.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use slicewire_api::labels::ROTATE_KEYS;
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;
use tonic::Code;

use crate::Portal;
use crate::fault::{Fault, Outcome};
use crate::gate::{Call, is_id};
use crate::kind::namespace_of;
use crate::kinds::Slice;
use crate::read::name_faults;
use crate::write::{Place, rewrite};

/// Asks for new keys.
pub(crate) async fn rotate(
    portal: &Portal,
    call: &Call,
    asked: rpc::RotateKeysRequest,
) -> Outcome<rpc::RotateKeysResponse> {
    let mut faults = name_faults("name", &asked.name);
    let namespace = namespace_of::<Slice>("project", &asked.project).map_err(|f| faults.extend(f));
    if !asked.request_id.is_empty() && !is_id(&asked.request_id) {
        let what = "must be 1 to 64 letters, digits, '-', '_' or '.'";
        faults.push(Violation::new("request_id", &asked.request_id, "RequestId", what));
    }
    let (Ok(namespace), []) = (namespace, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    let request = match asked.request_id.as_str() {
        "" => Timestamp::now().to_string(),
        id => id.to_owned(),
    };
    let place = Place { namespace, name: asked.name, version: String::new() };
    let dry = asked.validate_only;
    let feed = &*portal.feeds.slices;
    let slice = rewrite(portal, feed, call, &place, dry, |slice| ask(slice, &request)).await?;
    Ok(rpc::RotateKeysResponse { slice: Some(slice), request })
}

/// Writes the request into the slice.
fn ask(slice: &mut Value, request: &str) -> Outcome<()> {
    let clusters = slice.pointer("/spec/clusters").and_then(Value::as_array).map_or(0, Vec::len);
    if clusters < 2 {
        let message = "the slice is in one cluster only: it has no gateways, and no keys";
        return Err(Fault::new(Code::FailedPrecondition, "NoGateways", message));
    }
    slice["metadata"]["annotations"][ROTATE_KEYS] = json!(request);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_annotation_and_nothing_else_changes() {
        let clusters = json!([{"name": "east"}, {"name": "west"}]);
        let mut slice = json!({"metadata": {"name": "blue"}, "spec": {"clusters": clusters}});
        ask(&mut slice, "wish-1").unwrap();
        slice["metadata"]["annotations"]["other"] = json!("kept");
        ask(&mut slice, "wish-2").unwrap();
        let annotations = json!({ROTATE_KEYS: "wish-2", "other": "kept"});
        let metadata = json!({"name": "blue", "annotations": annotations});
        assert_eq!(slice, json!({"metadata": metadata, "spec": {"clusters": clusters}}));
    }

    #[test]
    fn a_slice_in_one_cluster_has_no_keys_to_renew() {
        let mut slice = json!({"metadata": {}, "spec": {"clusters": [{"name": "east"}]}});
        let before = slice.clone();
        let fault = ask(&mut slice, "wish").unwrap_err();
        assert_eq!((fault.code, slice), (Code::FailedPrecondition, before));
    }
}
