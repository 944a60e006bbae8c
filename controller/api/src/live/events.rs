//! Kubernetes' Events of a project, read as the caller.

use http::Method;
use serde_json::Value;
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;

use crate::Portal;
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::kind::namespace_of;
use crate::kinds::Slice;
use crate::read::{name_faults, page_size};
use crate::upstream::Ask;

/// Longest page token, in bytes: the API server's own.
const MAX_TOKEN: usize = 4096;

/// A page of Events.
pub(super) async fn list(
    portal: &Portal,
    call: &Call,
    request: rpc::ListEventsRequest,
) -> Outcome<rpc::ListEventsResponse> {
    let mut faults = Vec::new();
    let namespace = namespace_of::<Slice>("project", &request.project);
    let namespace = namespace.map_err(|f| faults.extend(f)).unwrap_or_default();
    let size = page_size(request.page_size, &mut faults);
    if !request.name.is_empty() {
        faults.extend(name_faults("name", &request.name));
    }
    let token = &request.page_token;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=".contains(&b);
    if token.len() > MAX_TOKEN || !token.bytes().all(plain) {
        let what = "is not a page token; send next_page_token as it came";
        faults.push(Violation::new("page_token", "", "PageToken", what));
    }
    if !faults.is_empty() {
        return Err(Fault::fields(faults));
    }
    let mut path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events?limit={size}");
    if !token.is_empty() {
        path.push_str(&format!("&continue={}", token.replace('=', "%3D")));
    }
    if !request.name.is_empty() {
        path.push_str(&format!("&fieldSelector=regarding.name%3D{}", request.name));
    }
    let ask = Ask { method: Method::GET, path, body: None };
    let answer = portal.upstream.ask(&call.caller, ask).await?;
    let items = answer.get("items").and_then(Value::as_array);
    let next = answer.pointer("/metadata/continue").and_then(Value::as_str);
    Ok(rpc::ListEventsResponse {
        events: items.into_iter().flatten().map(event).collect(),
        next_page_token: next.unwrap_or_default().to_owned(),
    })
}

/// An `events.k8s.io/v1` Event; those of before it have their times elsewhere.
fn event(from: &Value) -> rpc::Event {
    let text =
        |path: &str| from.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |path: &str| from.pointer(path).and_then(Value::as_i64);
    let times = ["/series/lastObservedTime", "/deprecatedLastTimestamp", "/eventTime"];
    let time = times.iter().map(|p| text(p)).find_map(|t| t.parse().ok());
    let count = number("/series/count").or_else(|| number("/deprecatedCount")).unwrap_or(1);
    rpc::Event {
        time,
        kind: text("/regarding/kind"),
        name: text("/regarding/name"),
        r#type: text("/type"),
        reason: text("/reason"),
        message: text("/note"),
        count: i32::try_from(count).unwrap_or(i32::MAX),
        reporter: text("/reportingController"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_of_a_series_is_told() {
        let told = event(&json!({
            "eventTime": "2026-01-01T10:00:00.000000Z",
            "series": {"count": 4, "lastObservedTime": "2026-01-01T11:00:00.000000Z"},
            "regarding": {"kind": "SliceConfig", "name": "blue"},
            "type": "Warning", "reason": "TunnelDown", "note": "why",
            "reportingController": "slicewire-hub",
        }));
        assert_eq!((told.count, told.name.as_str(), told.r#type.as_str()), (4, "blue", "Warning"));
        assert_eq!(told.time.unwrap().to_string(), "2026-01-01T11:00:00Z");
    }

    #[test]
    fn an_event_of_the_old_form_is_understood() {
        let told = event(&json!({
            "eventTime": null, "deprecatedLastTimestamp": "2026-01-01T11:00:00Z", "deprecatedCount": 2,
        }));
        assert_eq!((told.count, told.time.is_some()), (2, true));
    }
}
