//! What is told of the keys of a slice's gateways.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The keys of a slice's gateways.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceKeys {
    /// The generation that every gateway has.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// The one they are changing to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub next_generation: Option<u64>,
    /// When they were renewed last, RFC 3339; left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<String>,
    /// When the renewal that goes on began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Since when every gateway sends by the new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<String>,
    /// The last value of the annotation `slicewire.dev/rotate-keys` that was taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Tunnel ends that have a pre-shared key, of all, as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared: Option<String>,
}
