//! Kubernetes' Events: of a project read as the caller, and watched in memory as the kinds are.

use std::sync::Arc;

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::events::v1;
use serde_json::Value;
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;

use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::kind::{Kind, namespace_of, project_of};
use crate::kinds::Slice;
use crate::read::{name_faults, page_size};
use crate::upstream::Ask;
use crate::watching::{WatchArgs, watch};
use crate::{Portal, Streamed};

/// Longest page token, in bytes: the API server's own.
const MAX_TOKEN: usize = 4096;
/// Longest text of an Event, in characters: Events of the old form may have some of any length.
const MAX_TEXT: usize = 4096;

/// Something that happened, as a kind that is only watched.
pub struct Event;

impl Kind for Event {
    type Object = v1::Event;
    type Message = rpc::Event;
    const MESSAGE: &'static str = "slicewire.hub.v1alpha1.Event";
    const FIELD: &'static str = "event";
    const IN_PROJECT: bool = true;

    fn metadata(_: &rpc::Event) -> Option<&rpc::Metadata> {
        None
    }

    fn read(object: Value) -> Option<rpc::Event> {
        Some(event(&object))
    }
}

/// Events as they are, and then as they come.
pub(super) async fn watched(
    portal: Arc<Portal>,
    call: Call,
    request: rpc::WatchEventsRequest,
) -> Outcome<Streamed<rpc::WatchEventsResponse>> {
    let rpc::WatchEventsRequest { project, filter, resume_token: token } = request;
    let feed = portal.events.clone();
    let told = watch(portal, feed, call, WatchArgs { project, filter, token }).await?;
    Ok(Box::pin(told.map(|told| {
        told.map(|told| rpc::WatchEventsResponse {
            r#type: told.event.into(),
            event: told.message,
            resume_token: told.token,
            notice: told.notice.to_owned(),
        })
    })))
}

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
        message: text("/note").chars().take(MAX_TEXT).collect(),
        count: i32::try_from(count).unwrap_or(i32::MAX),
        reporter: text("/reportingController"),
        id: text("/metadata/name"),
        project: project_of(&text("/metadata/namespace"))
            .map(|p| p.to_string())
            .unwrap_or_default(),
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
            "note": "x".repeat(MAX_TEXT + 1),
        }));
        assert_eq!((told.count, told.time.is_some()), (2, true));
        assert_eq!(told.message.len(), MAX_TEXT);
    }

    #[test]
    fn events_are_asked_about_and_filtered_as_what_they_are() {
        use crate::access::Deed;
        use crate::feed::Item;
        use crate::read::Selection;
        let deed = Deed::with::<<Event as Kind>::Object>("list", "", "");
        let what = [deed.group.as_str(), &deed.version, &deed.resource];
        assert_eq!(what, ["events.k8s.io", "v1", "events"]);
        let told = event(&json!({"metadata": {"name": "blue.17", "namespace": "slicewire-demo"},
            "type": "Warning", "regarding": {"name": "blue"}}));
        let item = Item::new(("slicewire-demo".into(), told.id.clone()), 1, told);
        let wants = |filter| Selection::parse::<Event>("demo", filter).unwrap().wants(&item);
        assert!(wants("name = blue AND type = Warning AND project = demo AND id : blue"));
        assert!(!wants("type = Normal"));
        assert!(Selection::parse::<Event>("demo", "regarding = blue").is_err());
    }
}
