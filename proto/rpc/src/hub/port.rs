//! A port by number or by name: Kubernetes tells them apart by their type, names have a letter.

use serde::{Deserialize, Deserializer, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(i64),
    Name(String),
}

pub(crate) fn serialize<S: Serializer>(port: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    match port.as_deref().map(|port| (port, port.parse::<u32>())) {
        None => to.serialize_none(),
        Some((_, Ok(number))) => to.serialize_u32(number),
        Some((name, Err(_))) => to.serialize_str(name),
    }
}

pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<String>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Option::<Port>::deserialize(from)?.map(|port| match port {
        Port::Number(number) => number.to_string(),
        Port::Name(name) => name,
    }))
}
