//! The API for portals, against what Kubernetes itself says.

mod browser;
mod calls;
mod clients;
mod events;
mod joining;
mod live;
mod rights;
mod services;
mod watch;
mod web;

pub(crate) use browser::browser;
pub(crate) use calls::calls;
pub(crate) use clients::clients;
pub(crate) use joining::{joining, rotation};
pub(crate) use live::live;
pub(crate) use rights::rights;
pub(crate) use services::services;
pub(crate) use watch::watch;
pub(crate) use web::web;

use serde_json::{Value, json};

/// Everything on our kinds, and reading and watching Events.
pub(crate) fn everything() -> Value {
    json!([
        {"apiGroups": ["slicewire.dev"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["list", "watch"]},
    ])
}

/// Reading slices, and nothing of what clusters report.
pub(crate) fn slices_alone() -> Value {
    json!([{"apiGroups": ["slicewire.dev"], "resources": ["sliceconfigs"], "verbs": ["get"]}])
}
