//! `google.protobuf.Timestamp` as RFC 3339.

use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.serialize_some(&time.to_string()),
        None => to.serialize_none(),
    }
}

/// A text that is no time is none: members write some of them.
pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<Timestamp>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|t| t.parse().ok()))
}
